"""Completion, by the shells themselves."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from controller.__main__ import COMMANDS as CONTROLLER_COMMANDS
from controller.__main__ import main as controller_main
from hostproxy.__main__ import COMMANDS, main
from hostproxy.completion import SHELLS, script, tree, walk
from tests.integration import needs


def bash(script: str, *words: str, directory: Path | None = None) -> list[str]:
    """What bash offers for the last of ``words``."""
    function = "_" + words[0].replace("-", "_")
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; {function}; echo \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=20, check=True, cwd=directory
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def hostproxy_bash() -> str:
    return script("bash", tree("hostproxy", "", COMMANDS, "hostproxy.cli"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("hostproxy", "dem"), ["demo"]),
        (("hostproxy", "certs", ""), ["dev"]),
        (("hostproxy", "certs", "dev", "--da"), ["--days"]),
        (("hostproxy", "status", "-o", ""), ["table", "json"]),
        (("hostproxy", "status", "--output", "=", "j"), ["json"]),
        (("hostproxy", "status", "--timeout", ""), []),
        (("hostproxy", "completion", "z"), ["zsh"]),
        (("hostproxy", "doctor", "--group", "by"), ["bypasses"]),
        (("hostproxy", "check", "-c", "co"), ["conf", "conf.toml"]),
        (("hostproxy", "certs", "dev", "--ca", "co"), ["conf"]),
        (("hostproxy", "certs", "dev", "co"), ["conf"]),
    ],
)
def test_bash_offers_what_can_follow(hostproxy_bash, tmp_path, words, offered):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf.toml").touch()
    assert sorted(bash(hostproxy_bash, *words, directory=tmp_path)) == sorted(offered)


def test_bash_offers_every_command(hostproxy_bash):
    assert bash(hostproxy_bash, "hostproxy", "") == list(COMMANDS)


def test_actions_of_the_controller():
    made = script("bash", tree("hostproxy-controller", "", CONTROLLER_COMMANDS, "controller.cli"))
    assert bash(made, "hostproxy-controller", "") == list(CONTROLLER_COMMANDS)
    assert "apply" in bash(made, "hostproxy-controller", "policy", "")
    assert bash(made, "hostproxy-controller", "policy", "apply", "--wav") == ["--waves"]


def test_fish_offers_what_can_follow(tmp_path):
    fish = needs.program("fish")
    path = tmp_path / "h.fish"
    path.write_text(script("fish", tree("hostproxy", "", COMMANDS, "hostproxy.cli")))

    def offered(line: str) -> list[str]:
        code = f"source {path}; complete -C '{line}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", code], capture_output=True, text=True, timeout=20, check=True, cwd=tmp_path
        )
        assert not done.stderr
        return sorted(each.split("\t")[0] for each in done.stdout.splitlines())

    assert offered("hostproxy dem") == ["demo"]
    assert offered("hostproxy certs d") == ["dev"]
    assert offered("hostproxy status -o ") == ["json", "table"]
    assert offered("hostproxy certs dev --da") == ["--days"]


def test_zsh_takes_the_script(tmp_path):
    zsh = needs.program("zsh")
    (tmp_path / "_hostproxy").write_text(script("zsh", tree("hostproxy", "", COMMANDS, "hostproxy.cli")))
    code = f"fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D; print -r -- $_comps[hostproxy]"
    done = subprocess.run([zsh, "-f", "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "_hostproxy"
    assert subprocess.run([zsh, "-n", str(tmp_path / "_hostproxy")], timeout=20, check=False).returncode == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_the_commands_print_it(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "hostproxy" in capsys.readouterr().out
    assert controller_main(["completion", shell]) == 0
    assert "hostproxy-controller" in capsys.readouterr().out


def test_words_that_shells_could_take_for_something_else():
    parser = argparse.ArgumentParser(prog="tool")
    parser.add_argument("--what", choices=("it's", "$HOME", "`id`"), help="don't: $(touch /tmp/x) `id` \\ 'quoted'")
    made = script("bash", parser)
    subprocess.run(["bash", "-n"], input=made, text=True, timeout=20, check=True)
    assert "$(touch" not in made  # help is not in it
    (command,) = walk(parser)
    assert command.options[1].words == ("it's", "$HOME", "`id`")
