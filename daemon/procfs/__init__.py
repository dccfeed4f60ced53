"""What the kernel says of a process: /proc and pidfds, read without twisted."""
