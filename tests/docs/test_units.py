"""The systemd units of deploy/ start what exists, with options that it takes, and stop as slowly as is promised."""

import configparser
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped] # its stubs are no dependency for two tests

from symvanta_pipeline.connect.server import GRACE_SECONDS
from tests.support.docs import CHECKOUT, DOCS, PRODUCTION, rows, section

DEPLOY = CHECKOUT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
INSTALLED = "/opt/symvanta"


def read(unit: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] # systemd's names are in capitals
    parsed.read(unit)
    return parsed


def words(unit: Path) -> list[str]:
    """Return what a unit starts, with this checkout in the place of the installed one."""
    return read(unit)["Service"]["ExecStart"].replace(INSTALLED, str(CHECKOUT)).split()


def unknown_options(command: list[str]) -> list[str]:
    """Return the options that a command's own help does not know."""
    words = [word for word in command if not word.startswith("-")]
    subcommands = [word for word in words[1:] if word in {"api", "grpc", "run", "connect-app"}]
    told = subprocess.run([words[0], *subcommands, "--help"], capture_output=True, text=True, check=True, timeout=60)
    return [word for word in command if word.startswith("--") and not re.search(rf"{word}\b", told.stdout)]


def verified(folder: Path) -> str:
    """Return what systemd itself has against a folder of units."""
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("there is no systemd-analyze")
    units = sorted(map(str, folder.glob("*.service")))
    ended = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    return ended.stderr + ended.stdout


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The units, as they would be with this checkout installed."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(INSTALLED, str(CHECKOUT)))
    return tmp_path


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_starts_what_exists_with_options_that_it_takes(unit: Path) -> None:
    command = words(unit)
    assert Path(command[0]).is_file()
    assert unknown_options(command) == []


def test_an_option_that_does_not_exist_is_found() -> None:
    assert unknown_options([*words(UNITS[0]), "--no-such-option"]) == ["--no-such-option"]


def test_systemd_has_nothing_against_them(here: Path) -> None:
    assert verified(here) == ""


def test_systemd_would_say_so(here: Path) -> None:
    unit = here / "symvanta-code.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=sometimes"))
    assert "sometimes" in verified(here)


def told() -> Iterator[tuple[str, str, int]]:
    """Yield each unit of the page's table: name, file of settings, seconds to stop."""
    for name, _, settings, stops in rows(section(PRODUCTION.read_text(), "As services")):
        [stem], [file] = re.findall(r"\[`([\w-]+)`\]", name), re.findall(r"/etc/symvanta/\w+\.env", settings)
        yield stem, file, int(stops.split()[0])


def test_the_page_says_the_same_of_each() -> None:
    services = {unit.stem: read(unit)["Service"] for unit in UNITS}
    assert {stem: (file, seconds) for stem, file, seconds in told()} == {
        stem: (service["EnvironmentFile"], int(service["TimeoutStopSec"])) for stem, service in services.items()
    }


def test_each_restarts_and_has_the_time_that_it_needs_to_end() -> None:
    services = {unit.stem: read(unit)["Service"] for unit in UNITS}
    assert {service["Restart"] for service in services.values()} == {"always"}
    [tick] = re.findall(r"which takes up to (\d+) seconds", (DOCS / "alerts.md").read_text())
    assert int(services["symvanta-code"]["TimeoutStopSec"]) > int(tick)
    assert int(services["symvanta-daemon"]["TimeoutStopSec"]) > int(tick)
    assert int(services["symvanta-connect"]["TimeoutStopSec"]) > GRACE_SECONDS
    assert services["symvanta-code"]["KillMode"] == "mixed"


def test_webserver_and_daemon_look_for_the_code_server_where_it_listens() -> None:
    [location] = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    [module] = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    code = " ".join(words(DEPLOY / "systemd" / "symvanta-code.service"))
    server = location["grpc_server"]
    assert f"--host {server['host']} --port {server['port']} " in code
    assert server["location_name"] == module["python_module"]["location_name"]
    assert code.endswith(f"--location-name {server['location_name']}")


def test_the_helper_is_a_script_that_the_shell_can_read() -> None:
    script = DEPLOY / "as-symvanta"
    subprocess.run(["sh", "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111
