"""The chart renders what Kubernetes and the gateway take, whatever is switched on."""

import json
import re
import tomllib

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from charts import CASES, EVERYTHING, FEATURES, LEAST, MINORS, SECRET, assert_valid, chart, find, merged, names, render
from checkov_skips import KUBERNETES, findings
from tools import BINARY, CHART, check


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_valid_on_the_six_newest_minors(case):
    manifests = render(CASES[case])
    assert len(set(names(manifests))) == len(manifests)
    assert len(MINORS) == 6
    for minor in MINORS:
        assert_valid(manifests, minor)


def test_the_schemas_refuse_what_is_no_field():
    manifests = render({})
    find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_valid(manifests, MINORS[0])


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_found_by_what_should_find_it(case):
    manifests = render(CASES[case])
    pods = [it["spec"]["template"]["metadata"]["labels"] for it in manifests if it["kind"] == "Deployment"]
    for manifest in manifests:
        selector = manifest.get("spec", {}).get("selector")
        if manifest["kind"] in ("Service", "Deployment", "PodDisruptionBudget", "PodMonitor"):
            wanted = selector.get("matchLabels", selector)
            assert sum(wanted.items() <= labels.items() for labels in pods) == 1, manifest["metadata"]["name"]


@pytest.mark.parametrize("case", CASES)
def test_the_gateway_takes_its_configuration(case, tmp_path):
    manifests = render(CASES[case])
    text = find(manifests, "ConfigMap")["data"]["trunkline.toml"]
    parsed = tomllib.loads(text)
    mounts = find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    mounted = [mount["mountPath"] for mount in mounts]
    for path in re.findall(r'"(/run/[^"]+)"', text):
        assert any(path.startswith(f"{mount}/") for mount in mounted), path
    accepts(text, tmp_path)
    assert parsed["listener"]["address"] == "0.0.0.0:8080"
    assert parsed["admin"]["address"] == "0.0.0.0:9100"


# Secrets that are not just any text.
OF_A_FORM = {name: SECRET["values"][name] for name in ("redis-url", "records-secret", "metrics-token")}


def accepts(text, tmp_path):
    """`trunkline check` with the secrets that would be mounted."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built")
    for path in set(re.findall(r'"(/run/[^"]+)"', text)):
        here = tmp_path / path.removeprefix("/run/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(OF_A_FORM.get(here.name, "0123456789abcdef" * 4))
    for folder in {tmp_path / "tls" / name for name in re.findall(r'"/run/tls/([^/"]+)/', text)}:
        certify(folder)
    config = tmp_path / "trunkline.toml"
    config.write_text(text.replace("/run/", f"{tmp_path}/"))
    # As the webhook of workload identity sets them.
    identity = {
        "AZURE_TENANT_ID": "00000000-0000-0000-0000-000000000002",
        "AZURE_CLIENT_ID": "00000000-0000-0000-0000-000000000001",
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
        "AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/",
    }
    (tmp_path / "token").write_text("token")
    check(BINARY, "check", config, env=identity)


def certify(folder):
    """A certificate that is its own authority."""
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    check("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=voice", "-days", "9", *files)
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())


def test_every_kind_of_value_reaches_the_gateway_as_it_is(tmp_path):
    """The chart writes TOML itself, since Helm's own makes floats of all numbers."""
    said = 'Say "hello",\nthen <wait> & see \\ ä €.'
    parameters = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}
    config = {
        "models": {"gpt-4.1 mini": "east"},
        "prices": {"gpt-realtime": {"input_text": 4, "output_audio": 64.5}},
        "pools": {"voice": {"deployments": ["east", {"name": "west", "priority": 1}], "hedge": True}},
        "deployments": {"west": {"url": "https://other.openai.azure.com", "model": "m", "timeouts": {"connect": "3s"}}},
        "listener": {"backlog": 2048, "callers": {"realtime": {"max_message": 22020096}}},
        "quota": {"headroom": 0.85, "expect": {"turns_per_minute": 5}},
        "agents": {
            "reception": {
                "deployment": "voice",
                "may_hang_up": False,
                "webhooks": {"hours": {"url": "https://tools.example.com/hours", "timeout": "5s"}},
                "session": {
                    "instructions": said,
                    "temperature": 0.8,
                    "tools": [{"name": "hours", "description": "Of a day.", "parameters": parameters}],
                },
            }
        },
    }
    text = find(render({"config": config}), "ConfigMap")["data"]["trunkline.toml"]
    accepts(text, tmp_path)
    parsed = tomllib.loads(text)
    for table, wanted in config.items():
        assert contains(parsed[table], wanted), (table, parsed[table])


def contains(got, wanted):
    if isinstance(wanted, dict):
        return all(key in got and contains(got[key], value) for key, value in wanted.items())
    return got == wanted and isinstance(got, type(wanted))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"terminationGracePeriodSeconds": 1834}, "terminationGracePeriodSeconds is 1834"),
        ({"gateway": {"drainSeconds": 3600}}, "need 3635"),
        ({"gateway": {"preStopSeconds": 16}}, "need 1836"),
        ({"redis": {"url": "redis://a", "bundled": {"enabled": True}}}, "only one of redis.url"),
        ({"redis": {"urlKey": "missing"}}, "secret.values has not"),
        ({"secret": {"values": {"a": "b"}, "signingKey": "c"}}, "secret.values has not"),
        ({"secret": {"values": {"a": "b"}, "existingName": "c"}}, "only one of secret.existingName"),
        ({"azureWorkloadIdentity": {"enabled": True}}, "clientId is empty"),
        ({"autoscaling": {"enabled": True, "callsPerPod": 301}}, "never be one more pod"),
        ({"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "counted twice"),
        ({"secret": {"values": {"a": "b"}}, "records": {"webhookSecretKey": "c"}}, "secret.values has not"),
        ({"records": {"spoolSizeLimit": "1Gi"}}, "set config.records.webhook.url"),
        ({"secret": {"values": {"a": "b"}, "adminTokenKey": "a", "metricsTokenKey": "a"}}, "could also end calls"),
        ({"secret": {"values": {"a": "b"}, "adminTokenKey": "c"}}, "secret.values has not"),
        ({"adminTls": {"clientCaKey": "ca.crt"}}, "adminTls.secret, which is empty"),
        (
            {"adminTls": {"secret": "a"}, "monitoring": {"tls": {"clientSecret": "b"}}},
            "monitoring.tls.clientSecret is for client certificates",
        ),
        (
            {"adminTls": {"secret": "a"}, "ingress": {"enabled": True, "controller": "agic", "hosts": ["a"]}},
            "give both or none of gateway.tlsSecret",
        ),
        ({"ingress": {"enabled": True}}, "ingress.hosts is empty"),
        ({"gatewayApi": {"enabled": True}}, "parentRefs is empty"),
    ],
)
def test_what_cannot_work_is_not_rendered(values, said):
    with pytest.raises(helm.HelmRenderError, match=re.escape(said)):
        render(values)


def test_without_a_deployment_nothing_is_rendered():
    with pytest.raises(helm.HelmRenderError, match="config.deployments is empty"):
        chart().render(values={}, name="edge")


def test_a_grace_period_that_just_suffices_is_taken():
    spec = find(render({"terminationGracePeriodSeconds": 1835}), "Deployment")["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == 1835
    quick = {"gateway": {"drainSeconds": 30, "preStopSeconds": 5}, "terminationGracePeriodSeconds": 55}
    text = find(render(quick), "ConfigMap")["data"]["trunkline.toml"]
    assert tomllib.loads(text)["drain"]["grace"] == "30s"


@pytest.mark.parametrize(
    "values",
    [
        {"gateway": {"maxCalls": 0}},
        {"gateway": {"maxcalls": 5}},
        {"gateway": {"publicUrl": "voice.example.com"}},
        {"config": {"deployment": {}}},
        # The chart's own: they would have no effect.
        {"config": {"admin": {"public": True}}},
        {"config": {"drain": {"grace": "1s"}}},
        {"autoscaling": {"kind": "vpa"}},
        {"image": {"digest": "latest"}},
        {"secret": {"values": {"a/b": "c"}}},
    ],
)
def test_values_are_checked_by_their_schema(values):
    with pytest.raises(helm.HelmValuesError):
        chart().validate_schema(merged(LEAST, values))


def test_every_value_has_its_place_in_the_schema():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def walk(value, rule, path):
        if not rule.get("properties"):
            return
        assert rule["additionalProperties"] is False, path
        assert set(value) <= set(rule["properties"]), (path, set(value) - set(rule["properties"]))
        for key, inner in value.items():
            if isinstance(inner, dict):
                walk(inner, rule["properties"][key], f"{path}.{key}")

    walk(values, schema, "")
    # The load tool writes these two.
    assert schema["properties"]["gateway"]["properties"]["maxCalls"]["type"] == "integer"
    assert schema["properties"]["autoscaling"]["properties"]["callsPerPod"]["type"] == "integer"


@pytest.mark.parametrize("case", ["least", "everything"])
def test_helm_lint_finds_nothing(case):
    report = helm.lint(CHART, values=merged(LEAST, CASES[case]), strict=True, namespace="voice")
    assert not report["errors"]
    assert [it for it in report["messages"] if it["severity"] > 1] == []


@pytest.mark.parametrize("case", CASES)
def test_pods_have_no_privilege(case):
    for deployment in (it for it in render(CASES[case]) if it["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_sockets_outlive_proxies_timeouts():
    for controller, key, value in [
        ("nginx", "nginx.ingress.kubernetes.io/proxy-read-timeout", "4000"),
        ("haproxy", "haproxy-ingress.github.io/timeout-tunnel", "4000s"),
        ("agic", "appgw.ingress.kubernetes.io/request-timeout", "4000"),
    ]:
        ingress = find(render(FEATURES[f"ingress-{controller}"]), "Ingress")
        assert ingress["metadata"]["annotations"][key] == value
    rule = find(render(FEATURES["gateway-api"]), "HTTPRoute")["spec"]["rules"][0]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["backendRefs"] == [{"name": "edge-trunkline", "port": 80}]


def test_pods_scale_by_their_calls():
    metric = find(render(FEATURES["hpa"]), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert metric == {
        "metric": {"name": "trunkline_calls_active"},
        "target": {"type": "AverageValue", "averageValue": "200"},
    }
    manifests = render(FEATURES["keda"])
    trigger = find(manifests, "ScaledObject")["spec"]["triggers"][0]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["threshold"] == "150"
    assert 'namespace="voice"' in trigger["metadata"]["query"]
    # Who scales is the only one who says how many.
    assert "replicas" not in find(manifests, "Deployment")["spec"]
    assert find(render({"replicaCount": 3}), "Deployment")["spec"]["replicas"] == 3


def test_a_changed_configuration_rolls_the_pods():
    def checksum(values):
        template = find(render(values), "Deployment")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/config"]

    assert checksum({}) == checksum({"replicaCount": 5})
    assert checksum({}) != checksum({"gateway": {"maxCalls": 301}})


def test_a_changed_configuration_may_be_left_to_the_pods_that_run():
    def template(values):
        return find(render({"configChange": "reload"} | values), "Deployment")["spec"]["template"]

    assert "checksum/config" not in template({})["metadata"]["annotations"]
    assert template({}) == template({"gateway": {"maxCalls": 301}})
    # A file that is mounted by itself is never replaced.
    mounts = template({})["spec"]["containers"][0]["volumeMounts"]
    assert not any("subPath" in mount for mount in mounts)


def test_prometheus_shows_the_token_and_names_the_job():
    # The one that changes nothing, where there is such.
    for case, key, asked in [
        ("secret", "admin-token", {"token_file"}),
        ("secret-to-look", "metrics-token", {"token_file", "read_token_file"}),
        ("secret-only-to-look", "metrics-token", {"read_token_file"}),
    ]:
        manifests = render(merged(FEATURES[case], FEATURES["pod-monitor"]))
        endpoint = find(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
        assert endpoint["port"] == "admin"
        assert endpoint["authorization"]["credentials"] == {"name": "edge-trunkline", "key": key}
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "trunkline"}]
        config = tomllib.loads(find(manifests, "ConfigMap")["data"]["trunkline.toml"])["admin"]
        assert set(config) == {"address", *asked}
    assert "authorization" not in find(render(FEATURES["pod-monitor"]), "PodMonitor")["spec"]["podMetricsEndpoints"][0]


def of_admin_port(case):
    """What probes, the admin service and the monitor speak, and how much is asked there."""
    manifests = render(merged(CASES[case], {"monitoring": {"podMonitor": {"enabled": True}}}))
    pod = find(manifests, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    probes = {container[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "liveness", "readiness")}
    service = find(manifests, "Service", "edge-trunkline-admin")["spec"]["ports"][0]["appProtocol"]
    endpoint = find(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    config = tomllib.loads(find(manifests, "ConfigMap")["data"]["trunkline.toml"])["admin"]
    secrets = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
    return {probe.lower() for probe in probes} | {service, endpoint["scheme"]}, endpoint, config, secrets


def test_probes_and_prometheus_speak_what_the_admin_port_speaks():
    spoken, endpoint, config, secrets = of_admin_port("least")
    assert (spoken, secrets) == ({"http"}, [])
    assert "tlsConfig" not in endpoint and "tls" not in config

    spoken, endpoint, config, secrets = of_admin_port("admin-tls")
    assert (spoken, secrets) == ({"https"}, ["operators-tls"])
    signed = {"secret": {"name": "operators-tls", "key": "ca.crt"}}
    assert endpoint["tlsConfig"] == {"serverName": "edge-trunkline-admin.voice.svc", "ca": signed}
    # Nobody has to show anything yet.
    assert config["public"] is True and "client_auth" not in config["tls"]

    spoken, endpoint, config, _ = of_admin_port("admin-mtls-scraped")
    assert spoken == {"https"}
    assert endpoint["tlsConfig"]["cert"] == {"secret": {"name": "prometheus-tls", "key": "tls.crt"}}
    assert endpoint["tlsConfig"]["keySecret"] == {"name": "prometheus-tls", "key": "tls.key"}
    # Kubernetes' probes have no certificate.
    assert config["tls"]["client_auth"] == "optional" and "public" not in config


def test_who_reaches_the_admin_port_is_the_same_with_tls():
    policy = find(render(FEATURES["least"]), "NetworkPolicy")
    assert policy == find(render(FEATURES["admin-mtls"]), "NetworkPolicy")


def test_prometheus_knows_a_certificate_by_the_name_that_is_given():
    tls = {"serverName": "operators.example.com", "caKey": ""}
    values = merged(FEATURES["admin-tls"], {"monitoring": {"serviceMonitor": {"enabled": True}, "tls": tls}})
    endpoint = find(render(values), "ServiceMonitor")["spec"]["endpoints"][0]
    assert endpoint["tlsConfig"] == {"serverName": "operators.example.com"}


def test_rules_and_dashboards_are_those_of_deploy():
    manifests = render(EVERYTHING)
    sources = [CHART.parents[1] / "prometheus" / f"{name}.rules.yaml" for name in ("recording", "alerts")]
    groups = [group for source in sources for group in yaml.safe_load(source.read_text())["groups"]]
    assert find(manifests, "PrometheusRule")["spec"]["groups"] == groups
    for source in sorted((CHART.parents[1] / "grafana").glob("*.json")):
        data = find(manifests, "ConfigMap", f"edge-trunkline-dashboard-{source.stem}")["data"]
        assert json.loads(data[f"trunkline-{source.name}"]) == json.loads(source.read_text())


def test_the_metadata_service_is_out_of_reach_unless_asked_for():
    def reaches(values):
        rules = find(render(values), "NetworkPolicy")["spec"]["egress"]
        blocks = [peer["ipBlock"] for rule in rules for peer in rule.get("to", []) if "ipBlock" in peer]
        return any("169.254.169.254/32" == block["cidr"] for block in blocks), any(
            "169.254.169.254/32" in block.get("except", []) for block in blocks
        )

    assert reaches({}) == (False, True)
    assert reaches({"networkPolicy": {"allowInstanceMetadata": True}}) == (True, False)


def test_checkov_finds_nothing_that_is_not_meant(tmp_path):
    path = tmp_path / "manifests.yaml"
    manifests = [it for case in ("least", "everything") for it in render(CASES[case])]
    path.write_text(yaml.safe_dump_all(manifests))
    assert findings("kubernetes", KUBERNETES, "--file", path) == []
