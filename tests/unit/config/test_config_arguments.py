"""Argument vectors without their secrets, and with everything else."""

from __future__ import annotations

import pytest

from daemon.config.arguments import word_shown, words_shown

R = "<redacted>"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--token=hush", "-v"), [f"--token={R}", "-v"]),
        (("-token=hush", "-token", "hush"), [f"-token={R}", "-token", R]),
        (("--password", "hush", "more"), ["--password", R, "more"]),
        (("--password", "-hu$h"), ["--password", R]),
        (("--requirepass", "hush", "--port", "6379"), ["--requirepass", R, "--port", "6379"]),
        (("--masterauth", "hush"), ["--masterauth", R]),
        (("SECRET:hush",), [f"SECRET:{R}"]),
        (("--password={hush}", "--token", "(hush"), [f"--password={R}", "--token", R]),
        (("password=hush, hush and hush",), [f"password={R}"]),
        (("-Djavax.net.ssl.keyStorePassword=hush",), [f"-Djavax.net.ssl.keyStorePassword={R}"]),
        (("--db", "postgres://u:hush@h/"), ["--db", f"postgres://{R}@h/"]),
        (("--dsn=postgres://u:hush@h/x",), [f"--dsn=postgres://{R}@h/x"]),
        (("--slack-webhook=https://hooks.example/hush",), [f"--slack-webhook={R}"]),
        (("-H", "Authorization: Bearer hush"), ["-H", f"Authorization:{R}"]),
        (("--header=Authorization: Basic hush",), [f"--header=Authorization: {R}"]),
        (("-H", "X-Api-Key: hush", "-H", "Accept: */*"), ["-H", f"X-Api-Key:{R}", "-H", "Accept: */*"]),
        (("-H", "Cookie: a=hush; b=hush"), ["-H", f"Cookie:{R}"]),
        (("-u", "me:hush", "--user=me:hush"), ["-u", f"me:{R}", f"--user=me:{R}"]),
        (("--proxy", "http://me:hush@proxy:3128"), ["--proxy", f"http://{R}@proxy:3128"]),
        (("-c", "TOKEN=hush exec web --port 80"), ["-c", f"TOKEN={R} exec web --port 80"]),
        (("-c", "exec web --token \\\n  hush -v"), ["-c", f"exec web --token \\\n  {R} -v"]),
        (("-c", "exec web --password 'hush hush' --port 80"), ["-c", f"exec web --password '{R}' --port 80"]),
        (("-ec", "export PASSWORD=\"hush\"; web -v"), ["-ec", f"export PASSWORD=\"{R}\"; web -v"]),
        (("-c", "curl -H \"Authorization: Bearer hush\" http://h/x"), ["-c", f"curl -H \"Authorization: {R}\" http://h/x"]),
        (("-c", "curl -u me:hush http://h"), ["-c", f"curl -u me:{R} http://h"]),
        (("-c", "mysql -h db -phush -e 'select 1'"), ["-c", f"mysql -h db -p{R} -e 'select 1'"]),
        (("-c", "sshpass -p hush ssh h"), ["-c", f"sshpass -p {R} ssh h"]),
        (("-c", "redis-cli -a hush ping"), ["-c", f"redis-cli -a {R} ping"]),
        (("-c", "echo 'login with password=hush'; exit 4"), ["-c", f"echo 'login with password={R}'; exit 4"]),
        (("-c", "curl -H 'Cookie: a=hush' 'x'; web password=hush"), ["-c", f"curl -H 'Cookie: {R}' 'x'; web password={R}"]),
        (("-c", "A_KEY='hush hush'; B_KEY=hu\"sh\"hush; web"), ["-c", f"A_KEY='{R}'; B_KEY={R}; web"]),
        (("-c", "DSN='postgres://me:hush@db/x password=hush' web"), ["-c", f"DSN='postgres://{R}@db/x password={R}' web"]),
        (("mysqladmin", "-phush", "ping"), ["mysqladmin", f"-p{R}", "ping"]),
        (("/usr/bin/sshpass", "-p", "hush"), ["/usr/bin/sshpass", "-p", R]),
        (("redis-cli", "-a", "hush", "-p", "6379"), ["redis-cli", "-a", R, "-p", "6379"]),
        (('{"password": "hush", "port": 1, "list": [{"api_key": ["hush"]}]}',),
         [f'{{"password": "{R}", "port": 1, "list": [{{"api_key": "{R}"}}]}}']),
        (('--config={"password": "hush", "port": 1}',), [f'--config={{"password": "{R}", "port": 1}}']),
        (('--config={\\"password\\": \\"hush\\", \\"port\\": 1}',), [f'--config={{\\"password\\": \\"{R}\\", \\"port\\": 1}}']),
        (("{password: hush, port: 1}",), [f"{{password: {R}, port: 1}}"]),
        (("host=db password=hush user=me",), [f"host=db password={R} user=me"]),
        (("Server=db;Uid=me;Pwd=hush;Encrypt=yes",), [f"Server=db;Uid=me;Pwd={R};Encrypt=yes"]),
        (("me:hush@tcp(db:3306)/x",), [f"me:{R}@tcp(db:3306)/x"]),
        (("ghp_hushhushhushhushhushhush",), [R]),
        (("-----BEGIN RSA PRIVATE KEY-----\nhush\n-----END RSA PRIVATE KEY-----",), [R]),
    ],
)  # fmt: skip
def test_secrets_go_and_what_stands_around_them_stays(words: tuple[str, ...], shown: list[str]) -> None:
    assert words_shown(words) == shown


@pytest.mark.parametrize(
    "words",
    [
        ("--password", "--verbose"), ("--key-file", "/etc/key"), ("--token-file=/run/token",), ("--no-auth", "web"),
        ("--auth-enabled=true",), ("--token-ttl", "3600"), ("--password-length=12",), ("--disable-token", "web"),
        ("--author", "somebody"), ("--keyspace=events",), ("--keyboard", "de"), ("--bypass=x", "--compass", "n"),
        ("--token", "$TOKEN"), ("--token=${TOKEN}",), ("-c", "exec web --token \"$TOKEN\" --port 80"),
        ("-c", "export TOKEN=$(cat /run/token); exec web"), ("-c", "PWD=/srv exec web"),
        ("-c", "while :; do echo alive; sleep 1; done"), ("-p", "8080"), ("-u", "nobody"), ("-a", "x", "-w", "y"),
        ("http://127.0.0.1:9100/metrics",), ("--listen=0.0.0.0:80", "user@host", "[::1]:80"), ("{config_file}",),
        ('{"port": 1, "path": "/x"}',), ("[not json",), ("image:tag@sha256:0123",), ("--web.listen-address=:9100",),
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(words: tuple[str, ...]) -> None:
    assert words_shown(words) == list(words)


def test_the_program_before_the_words_tells_its_short_flags() -> None:
    assert words_shown(("-phush", "-P", "3306"), "/usr/bin/mysqld_exporter") == [f"-p{R}", "-P", "3306"]
    assert words_shown(("-p", "3306"), "/usr/bin/mysql") == ["-p", "3306"], "it asks for the password"
    assert words_shown(("-phush",), "/usr/bin/web") == ["-phush"]


def test_one_word() -> None:
    assert word_shown("token=hush") == f"token={R}" and word_shown("plain") == "plain"
