"""The image's recipe, the compose file, the Bicep templates: what can be said of them without a container engine or Azure."""

import json
import re
import tomllib

import pytest
import yaml
from pycep import BicepParser

from checkov_skips import BICEP, DOCKERFILE, findings
from tools import BIN, BINARY, DEPLOY, ROOT, check


def test_hadolint_finds_nothing():
    assert check(BIN / "hadolint", DEPLOY / "Dockerfile") == ""


def test_checkov_finds_nothing_in_the_recipe():
    assert findings("dockerfile", DOCKERFILE, "--file", DEPLOY / "Dockerfile") == []


def test_both_images_hold_one_static_binary_and_nobody_runs_them():
    recipe = (DEPLOY / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", recipe, flags=re.MULTILINE)[1:]
    assert [stage.split()[2] for stage in stages] == ["build", "loadtest", "gateway"]
    for stage in stages[1:]:
        assert stage.startswith("scratch AS ")
        assert re.search(r"^USER 65532:65532$", stage, re.MULTILINE)
    toolchain = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    assert stages[0].startswith(f"rust:{toolchain}-")


def test_what_is_compiled_reaches_the_builder():
    """Cargo reads the manifests of all targets, so that their files must be there too."""
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    paths = [manifest["package"]["build"], manifest["package"]["readme"], "Cargo.lock", "src/main.rs"]
    paths += [target["path"] for kind in ("test", "example") for target in manifest.get(kind, [])]
    paths += [f"{member}/Cargo.toml" for member in manifest["workspace"]["members"]]
    for path in paths:
        assert any(path == name or path.startswith(f"{name}/") for name in kept), path


@pytest.fixture
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_mounts_what_there_is(compose):
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
        assert set(service.get("depends_on", [])) <= set(compose["services"])
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port} is open to others"
    build = {name: it["build"] for name, it in compose["services"].items() if "build" in it}
    assert {it["target"] for it in build.values()} == {"gateway", "loadtest"}


def test_compose_locks_down_its_containers(compose):
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_the_gateway_of_compose_takes_its_configuration(compose):
    config = DEPLOY / "compose" / "trunkline.toml"
    check(BINARY, "check", config)
    parsed = tomllib.loads(config.read_text())
    grace = int(parsed["drain"]["grace"].removesuffix("s"))
    assert int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s")) >= grace + 20


def test_grafana_finds_the_dashboards_of_deploy(compose):
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "compose/grafana/dashboards/trunkline.yaml").read_text())["providers"][0]
    assert mounts["./grafana"] == provider["options"]["path"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads((DEPLOY / "grafana" / home.split("/")[-1]).read_text())["uid"] == "trunkline-operations"


def test_checkov_finds_nothing_in_bicep():
    assert findings("bicep", BICEP, "--directory", DEPLOY / "azure") == []


@pytest.mark.parametrize("path", sorted((DEPLOY / "azure").glob("*.bicep")), ids=lambda path: path.name)
def test_bicep_is_read(path):
    """By a parser of the language, not Azure's own compiler, which no package registry has: types stay unchecked."""
    parsed = BicepParser().parse(text=path.read_text())
    outputs = parsed.get("outputs", {})
    assert parsed["resources"] if path.name != "main.bicep" else parsed["modules"]
    assert not any(re.search("key|secret|password", name, re.IGNORECASE) for name in outputs)


def test_bicep_modules_are_given_what_they_ask_for():
    text = (DEPLOY / "azure" / "main.bicep").read_text()
    modules = re.findall(r"^module (\w+) '([\w.]+)' = .*?^  params: \{(.*?)^  \}", text, re.MULTILINE | re.DOTALL)
    assert len(modules) == 4
    for name, file, params in modules:
        module = BicepParser().parse(text=(DEPLOY / "azure" / file).read_text())
        given = set(re.findall(r"^    (\w+):", params, re.MULTILINE))
        assert given == set(module["parameters"]), file
        for output in re.findall(rf"\b{name}!?\.outputs\.(\w+)", text):
            assert output in module["outputs"], f"{file} has no output {output}"
