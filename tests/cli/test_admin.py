"""What the commands that ask the daemon have in common: reaching it, or not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from hostproxy.__main__ import main
from hostproxy.cli.admin import shown, span, table

COMMANDS = [["status"], ["services"], ["endpoints", "payments"]]


@pytest.fixture(params=COMMANDS, ids=lambda words: words[0])
def command(request):
    """Each of the commands, with what it must be given."""
    return request.param


def answer_once(reply, close=True):
    """A server that is not hostproxy: reads a request and sends ``reply``. Returns its address and a way to end it."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve():
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(reply)
            if not close:
                ended.wait(5.0)
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()

    def end():
        ended.set()
        thread.join(5.0)

    return f"127.0.0.1:{server.getsockname()[1]}", end


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_over_a_unix_socket(command, daemon, tmp_path, capsys):
    address = daemon(address=f"unix:{tmp_path}/admin.sock")
    assert main([*command, "--admin", address]) == 0
    assert capsys.readouterr().out


def test_over_ipv6(command, daemon, capsys):
    assert main([*command, "--admin", daemon(address="[::1]:0")]) == 0


def test_the_address_is_read_from_conf_toml(command, daemon, tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text(
        '[host]\nname = "web-1"\naddress = "10.0.0.11"\n[mesh]\ntrust_domain = "example.org"\n'
        f'[admin]\nlisten = "{daemon()}"\n'
    )
    assert main([*command, "-c", str(conf)]) == 0


def test_a_conf_toml_that_was_broken_since_still_names_the_address(command, daemon, tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text(f'[hots]\nname = "web-1"\n[admin]\nlisten = "{daemon()}"\n')
    assert main([*command, "-c", str(conf)]) == 0


def test_a_file_that_is_no_toml_is_wrong_usage(command, tmp_path, capsys):
    conf = tmp_path / "conf.toml"
    conf.write_text("[[[")
    assert main([*command, "-c", str(conf)]) == 2
    error = capsys.readouterr().err
    assert str(conf) in error
    assert "--admin" in error


@pytest.mark.parametrize(
    "address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "localhost:15000", "unix:relative"]
)
def test_an_address_that_is_none_is_wrong_usage(command, address, capsys):
    assert main([*command, "--admin", address]) == 2
    assert address in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--timeout", "0"], ["--timeout", "soon"], ["-o", "xml"], ["-c", "x", "--admin", "127.0.0.1:1"]],
)
def test_wrong_usage(command, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, *arguments])
    assert ended.value.code == 2


def test_nobody_listens(command, capsys):
    assert main([*command, "--admin", free_address()]) == 3
    output = capsys.readouterr()
    assert output.out == ""
    assert "is hostproxy running" in output.err


def test_no_such_unix_socket(command, tmp_path, capsys):
    assert main([*command, "--admin", f"unix:{tmp_path}/admin.sock"]) == 3
    assert "is hostproxy running" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{",
        b'HTTP/1.1 500 No\r\nContent-Length: 18\r\n\r\n{"error": "broken"}',
    ],
)
def test_an_answer_that_is_none_of_hostproxys(command, reply, capsys):
    address, end = answer_once(reply)
    try:
        assert main([*command, "--admin", address]) == 3
    finally:
        end()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(address)


def test_no_answer_in_time(command, capsys):
    address, end = answer_once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", close=False)
    try:
        assert main([*command, "--admin", address, "--timeout", "0.2"]) == 3
    finally:
        end()
    assert "within 0.2 s" in capsys.readouterr().err


def test_twisted_is_never_imported(command, daemon):
    code = (
        "import sys; from hostproxy.__main__ import main; "
        "status = main(sys.argv[1:]); assert 'twisted' not in sys.modules; sys.exit(status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *command, "--admin", daemon()],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.9, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (125, "2m5s"),
        (3600, "1h"),
        (3605, "1h"),
        (90061, "1d1h"),
        (86400 * 400, "400d"),
    ],
)
def test_spans(seconds, text):
    assert span(seconds) == text


def test_a_table():
    assert list(table(("NAME", "COUNT"), [("a\x1b[31m", 5), ("b", 1000)])) == [
        "NAME    COUNT",
        "a?[31m      5",
        "b        1000",
        "",
    ]
    assert list(table(("NAME",), [])) == []


def test_nothing_moves_the_cursor():
    assert shown("a\x1b[2J\r\nb\u202e") == "a?[2J??b?"
