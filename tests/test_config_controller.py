"""``[controller]`` and ``[identity] mode = "controller"``: what goes together, and what is said when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostproxy import config
from hostproxy.mesh.document import Invalid

LEAST = """[host]
name = "db-1"
address = "10.0.0.12"
[mesh]
trust_domain = "corp.example"
[outbound]
listen = ""
"""
PIN = "sha256:" + "5f" * 32
MODE = '[identity]\nmode = "controller"\n'
CONTROLLER = f'[controller]\nurl = "https://controller.corp.example:15008"\nca_fingerprint = "{PIN}"\n'


def load(path: Path, text: str) -> config.Config:
    file = path / "conf.toml"
    file.write_text(LEAST + text)
    return config.load(str(file))


def problems(path: Path, text: str) -> list[str]:
    try:
        load(path, text)
    except Invalid as invalid:
        return [str(problem).partition("conf.toml:")[2] for problem in invalid.problems]
    return []


def test_the_least(tmp_path: Path) -> None:
    loaded = load(tmp_path, MODE + CONTROLLER + 'join_token_file = "token"\n')
    controller = loaded.controller
    assert (controller.host, controller.port) == ("controller.corp.example", 15008)
    assert (controller.listen, controller.interval) == ("0.0.0.0:15009", 60.0)
    assert controller.join_token_file == str(tmp_path / "token")
    assert loaded.identity.authorities_path == ""
    assert loaded.warnings == ()


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [("https://10.0.0.1:1", "10.0.0.1", 1), ("https://[fd00::1]:15008", "fd00::1", 15008)],
)
def test_addresses(tmp_path: Path, url: str, host: str, port: int) -> None:
    controller = load(tmp_path, MODE + CONTROLLER.replace("https://controller.corp.example:15008", url)).controller
    assert (controller.host, controller.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MODE + "[controller]\n", "10: controller.url: is missing"),
        (MODE + CONTROLLER.replace("https:", "http:"), "11: controller.url: "),
        (MODE + CONTROLLER.replace(":15008", ""), "11: controller.url: "),
        (MODE + CONTROLLER.replace(":15008", ":99999"), "11: controller.url: "),
        (MODE + CONTROLLER.replace("example:15008", "example:15008/x"), "11: controller.url: "),
        (MODE + CONTROLLER.replace("5f" * 32, "5f" * 31), "12: controller.ca_fingerprint: "),
        (MODE + CONTROLLER + 'ca_file = "ca.pem"\n', "13: controller.ca_file: is given beside ca_fingerprint"),
        (MODE + CONTROLLER + 'listen = "0.0.0.0:15443"\n', "13: controller.listen: "),
        (MODE + CONTROLLER + 'interval = "0s"\n', "13: controller.interval: "),
        (MODE + CONTROLLER + '[policy]\npath = "policy.toml"\n', "14: policy.path: is given, and policy comes from"),
        ("[identity]\n", "8: identity.files.ca: is missing"),
    ],
)
def test_what_cannot_be(tmp_path: Path, text: str, problem: str) -> None:
    assert any(each.startswith(problem) for each in problems(tmp_path, text)), problems(tmp_path, text)


def test_the_root_has_to_be_known(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MODE + '[controller]\nurl = "https://c:1"\n')
    assert "token create" in problem


def test_a_fingerprint_as_others_write_it_is_understood(tmp_path: Path) -> None:
    text = MODE + CONTROLLER.replace(PIN, ":".join(["5F"] * 32))
    (problem,) = problems(tmp_path, text)
    assert f'did you mean "{PIN}"?' in problem


def test_what_does_nothing_is_a_warning(tmp_path: Path) -> None:
    files = '[identity.files]\nca = "ca.pem"\ndirectory = "."\n'
    assert "does nothing" in str(load(tmp_path, files + CONTROLLER).warnings[0])
    assert "does nothing" in str(load(tmp_path, MODE + files + CONTROLLER).warnings[0])
