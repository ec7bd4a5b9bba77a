"""Base and overlays build, are valid, and hold to the same rules as the chart."""

import os
import re
import shutil
import tomllib

import pytest
import yaml

from charts import MINORS, assert_valid
from test_chart import accepts
from tools import DEPLOY, check

PLACES = ["base", "overlays/azure", "overlays/laptop"]
COMPONENT = "components/admin-tls"


@pytest.fixture(params=PLACES)
def manifests(request):
    return rendered(DEPLOY / "kustomize" / request.param)


def rendered(folder):
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here, whose kustomize renders these; Debian's is too old for them")
    text = check("kubectl", "kustomize", folder)
    return [it for it in yaml.safe_load_all(text) if it]


def one(manifests, kind, name):
    found = [it for it in manifests if it["kind"] == kind and re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", it["metadata"]["name"])]
    assert len(found) == 1, (kind, name)
    return found[0]


def test_what_is_rendered_is_valid_on_the_six_newest_minors(manifests):
    for minor in MINORS:
        assert_valid(manifests, minor)


def test_no_call_is_cut(manifests):
    config = tomllib.loads(one(manifests, "ConfigMap", "trunkline")["data"]["trunkline.toml"])
    pod = one(manifests, "Deployment", "trunkline")["spec"]["template"]["spec"]
    drain = int(config["drain"]["grace"].removesuffix("s"))
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= drain + pre_stop + 20


def test_the_gateway_takes_its_configuration(manifests, tmp_path):
    config = one(manifests, "ConfigMap", "trunkline")
    accepts(config["data"]["trunkline.toml"], tmp_path)
    volumes = one(manifests, "Deployment", "trunkline")["spec"]["template"]["spec"]["volumes"]
    assert {"name": config["metadata"]["name"]} in [volume.get("configMap") for volume in volumes]


def test_pods_have_no_privilege(manifests):
    for deployment in (it for it in manifests if it["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("place", PLACES)
def test_an_overlay_may_have_tls_on_the_admin_port(place, tmp_path):
    """With the lines of the component's own comment."""
    folder = DEPLOY / "kustomize" / COMPONENT
    said = (folder / "kustomization.yaml").read_text()
    settings = re.findall(r"^#   (\[admin\.tls\]|\w+ = .*)$", said, re.MULTILINE)
    assert len(settings) == 5
    overlay = {
        "resources": [os.path.relpath(DEPLOY / "kustomize" / place, tmp_path)],
        "components": [os.path.relpath(folder, tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    manifests = rendered(tmp_path)
    for minor in MINORS:
        assert_valid(manifests, minor)
    pod = one(manifests, "Deployment", "trunkline")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS" and container[probe]["httpGet"]["port"] == "admin"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"config", "admin-tls"} <= set(mounted) and mounted["admin-tls"] == "/run/tls/admin"
    assert "trunkline-admin-tls" in [volume.get("secret", {}).get("secretName") for volume in pod["volumes"]]
    assert one(manifests, "Service", "trunkline-admin")["spec"]["ports"][0]["appProtocol"] == "https"
    text = one(manifests, "ConfigMap", "trunkline")["data"]["trunkline.toml"]
    accepts(text + "\n" + "\n".join(settings) + "\n", tmp_path)


@pytest.mark.parametrize("place", [*PLACES, COMPONENT])
def test_the_files_alone_are_there(place):
    """Also where nothing renders them."""
    folder = DEPLOY / "kustomize" / place
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    named = list(kustomization.get("resources", [])) + [it["path"] for it in kustomization.get("patches", []) if "path" in it]
    named += [file for it in kustomization.get("configMapGenerator", []) for file in it["files"]]
    for name in named:
        assert (folder / name).exists(), name
    for path in folder.glob("*.yaml"):
        list(yaml.safe_load_all(path.read_text()))
