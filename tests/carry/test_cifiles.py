# SPDX-License-Identifier: GPL-2.0-or-later
"""Protects the ready files for CI servers: they are read by machines that nobody here has, so all is checked.

The script is run, with something in vcapdev's place that notes how it was called; what it was called with is
read by vcapdev's own command line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vcapdev import cli
from vcapdev.carry.cifiles import FILES, run, text_of
from vcapdev.errors import SetupError, UsageError
from vcapdev.image.machine import NEEDS
from vcapdev.image.recipe import load_recipe
from vcapdev.scenario import options as scenario_options


def yaml_of(what: str) -> dict[str, Any]:
    # YAML 1.1 takes GitHub's key "on" for a truth value.
    found = yaml.safe_load(text_of(what))
    assert isinstance(found, dict)
    return {("on" if key is True else key): value for key, value in found.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A driver's directory with the script, and a stand-in for vcapdev that exits with what STATUS says."""
    run("shell", tmp_path / "vcapdev-ci.sh")
    program = tmp_path / ".vcapdev/venv/bin/vcapdev"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done > words\nexit "${STATUS:-0}"\n')
    program.chmod(0o755)
    return tmp_path


def call(directory: Path, *words: str, **variables: str) -> tuple[int, str, list[str]]:
    """Exit status, what was printed, and how vcapdev was called."""
    environment = {"PATH": "/usr/bin:/bin", **variables}
    argv = ["sh", "vcapdev-ci.sh", *words]
    result = subprocess.run(
        argv, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    called = (directory / "words").read_text().splitlines()
    return result.returncode, result.stdout + result.stderr, called


def test_the_script_calls_vcapdev_as_it_can_be_called(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    (directory / "vcapdev.lock").touch()
    modules = directory / "modules"
    modules.mkdir()
    _, _, words = call(directory, "2/3", MODULES=str(modules), TESTS="tests")
    args = cli.parser().parse_args(words)
    options = scenario_options.from_arguments(args)
    assert options.modules == (modules,)
    assert (options.shard, [str(path) for path in options.files]) == ((2, 3), ["tests"])
    assert options.kernels == ("bookworm-6.1", "trixie-6.12")
    assert str(args.lock) == "vcapdev.lock"
    assert {str(path) for path in (args.junit, args.html, args.json)} == {
        f"results/shard-2-3.{kind}" for kind in ("xml", "html", "json")
    }


def test_a_bundle_takes_the_place_of_the_network(directory: Path) -> None:
    (directory / "vcapdev.lock").touch()
    args = cli.parser().parse_args(call(directory, BUNDLE="x.vcap")[2])
    assert (str(args.offline), args.lock) == ("x.vcap", None)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "clean"), (10, "red: see"), (20, "nothing was proved"), (30, "nothing was proved")],
)
def test_the_status_is_vcapdevs_own(directory: Path, status: int, said: str) -> None:
    found, text, _ = call(directory, STATUS=str(status))
    assert found == status
    assert said in text


PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "$*" > pip-words\\nexit ${PIP_STATUS:-0}\\n' > "$3/bin/pip"
printf '#!/bin/sh\\n: > words\\n' > "$3/bin/vcapdev"
[ "${PIP_STATUS:-0}" = 0 ] || rm "$3/bin/vcapdev"
chmod +x "$3/bin"/*
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A driver's directory without any vcapdev, and a stand-in for Python that notes how pip was called."""
    run("shell", tmp_path / "vcapdev-ci.sh")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(PYTHON)
    (tmp_path / "bin/python3").chmod(0o755)
    return tmp_path


def install(bare: Path, **variables: str) -> tuple[int, str, str]:
    """Exit status, complaints, and how pip was called."""
    environment = {"PATH": f"{bare}/bin:/usr/bin:/bin", **variables}
    result = subprocess.run(
        ["sh", "vcapdev-ci.sh", "1/2"], cwd=bare, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    words = bare / "pip-words"
    return result.returncode, result.stderr, words.read_text().strip() if words.exists() else ""


def test_the_script_installs_the_wheel_beside_it_or_what_is_named(bare: Path) -> None:
    (bare / "vcapdev-0.1.0-py3-none-any.whl").touch()
    assert install(bare) == (0, "", "install --quiet ./vcapdev-0.1.0-py3-none-any.whl")
    assert (bare / "results").is_dir()
    shutil.rmtree(bare / ".vcapdev")
    url = "git+https://example.org/vcapdev.git@main"
    assert install(bare, VCAPDEV_PACKAGE=url) == (0, "", f"install --quiet {url}")


@pytest.mark.parametrize("wheels", [[], ["vcapdev-1-py3-none-any.whl", "vcapdev-2-py3-none-any.whl"]])
def test_the_script_never_asks_an_index_for_a_name(bare: Path, wheels: list[str]) -> None:
    for name in wheels:
        (bare / name).touch()
    status, said, words = install(bare)
    assert (status, words) == (2, "")
    assert "Put one wheel beside this script" in said
    assert "VCAPDEV_PACKAGE" in said


def test_what_cannot_be_installed_is_no_red_driver(bare: Path) -> None:
    status, said, _ = install(bare, VCAPDEV_PACKAGE="gone.whl", PIP_STATUS="1")
    assert (status, said) == (20, "nothing was proved: vcapdev could not be installed from gone.whl\n")


def test_nothing_tells_anybody_to_install_a_name() -> None:
    """Which would install nothing, or a stranger's package: vcapdev is on no package index."""
    top = Path(__file__).parents[2]
    texts = [text_of(what) for what in FILES]
    texts += [page.read_text("utf-8") for page in (top / "README.md", *(top / "docs").rglob("*.md"))]
    lines = [line for text in texts for line in text.splitlines()]
    told = [line for line in lines if re.search(r"pip\S* (install|download|wheel)\b.*vcapdev", line)]
    assert told
    for line in told:
        words = re.split(r"pip\S* (?:install|download|wheel)\b", line)[1].replace("'", "").split("#")[0]
        names = re.findall(r"(?<![\w/.$-])vcapdev(?:\[\w+\])?(?=[\s`]|$)", words)
        assert not names or "--no-index" in words, line


def test_results_of_shares_are_joined(directory: Path) -> None:
    (directory / "results").mkdir()
    for number in (1, 2):
        (directory / f"results/shard-{number}-2.json").touch()
    _, _, words = call(directory, "merge")
    args = cli.parser().parse_args(words)
    assert args.merge
    assert [path.name for path in args.files] == ["shard-1-2.json", "shard-2-2.json"]


def test_github_runs_the_script_for_each_share_and_keeps_what_comes_out() -> None:
    workflow = yaml_of("github")
    assert set(workflow["on"]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["test"]
    for kernel in job["strategy"]["matrix"]["kernel"]:
        load_recipe(kernel)
    shares = job["strategy"]["matrix"]["shard"]
    assert shares == [f"{number}/{len(shares)}" for number in range(1, len(shares) + 1)]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert "sh vcapdev-ci.sh ${{ matrix.shard }}" in runs
    keeping = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert keeping["if"] == "always()"
    assert keeping["with"]["path"] == job["env"]["RESULTS"]
    caching = next(step for step in job["steps"] if "/cache@" in step.get("uses", ""))["with"]
    assert "hashFiles('vcapdev.lock')" in caching["key"]
    assert caching["key"].startswith(caching["restore-keys"])
    assert f'"$PWD/{caching["path"]}"' in text_of("shell").replace(
        "=$PWD/.vcapdev/cache}", '"$PWD/.vcapdev/cache"'
    )


def test_gitlab_does_the_same_and_tries_once_more_what_was_not_the_drivers_fault() -> None:
    job = yaml_of("gitlab")["dma"]
    matrix = job["parallel"]["matrix"][0]
    for kernel in matrix["KERNELS"]:
        load_recipe(kernel)
    assert job["script"] == ["sh vcapdev-ci.sh $SHARD"]
    assert job["retry"] == {"max": 1, "exit_codes": [20, 30]}
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["reports"]["junit"] == "results/shard-*.xml"
    assert job["cache"]["key"]["files"] == ["vcapdev.lock"]


@pytest.mark.parametrize("what", ["github", "gitlab", "container"])
def test_all_that_a_machine_must_bring_is_installed(what: str) -> None:
    """Debian's base system has apt and dpkg; the rest is what the doctor would miss."""
    text = re.sub(r"#.*", "", text_of(what))
    installed = set(re.findall(r"[\w.-]+", text))
    wanted = {need.package for need in NEEDS} - {"apt", "dpkg"}
    assert wanted <= installed, wanted - installed


def test_the_container_runs_as_an_ordinary_user() -> None:
    lines = text_of("container").splitlines()
    assert "USER vcapdev" in lines
    assert (
        lines.index("USER vcapdev") < lines.index("ENV VCAPDEV_CACHE=/cache") < lines.index("VOLUME /cache")
    )
    assert not any(line.startswith("USER root") for line in lines[lines.index("USER vcapdev") :])


def test_no_file_needs_kvm_or_root_in_the_guest_run() -> None:
    for what in FILES:
        assert "/dev/kvm" not in text_of(what)
        assert "--privileged" not in text_of(what)


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep/dma.yml"
    assert run("github", path) == 0
    assert path.read_text() == text_of("github")
    with pytest.raises(UsageError, match="is there already"):
        run("gitlab", path)
    assert path.read_text() == text_of("github")
    run("shell", tmp_path / "run.sh")
    assert (tmp_path / "run.sh").stat().st_mode & 0o111
    with pytest.raises(SetupError, match="cannot be written"):
        run("shell", Path("/dev/null/x"))
