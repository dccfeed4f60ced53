"""What agents use of the host: sampled each minute, kept for a day, asked by duration and step."""
