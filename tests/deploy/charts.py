"""The chart, rendered; and what is valid on which Kubernetes."""

import copy
import functools

import helm_python as helm
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions

from tools import CHART

helm.disable_logging()

# All that the package knows, each named twice there: for its lenient and its strict schemas.
MINORS = list(dict.fromkeys(all_versions()))[-6:]

# Kinds of other projects, for which there are no schemas here: the fields that the gateway relies on are looked at by hand.
FOREIGN = {"HTTPRoute", "PodMonitor", "ServiceMonitor", "PrometheusRule", "ScaledObject"}

SECRET = {
    "values": {
        "signing-secret": "0123456789abcdef0123456789abcdef",
        "admin-token": "acted-by",
        "metrics-token": "looked-at",
        "redis-url": "rediss://:secret@cache.example.com:6380/0",
        "records-secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    }
}

LEAST = {
    "config": {
        "auth": {"keys": [{"tenant": "acme", "sha256": "a" * 64, "expires": "2099-01-01T00:00:00Z"}]},
        "tenants": {"acme": {}},
        "deployments": {"east": {"url": "https://my-resource.openai.azure.com", "model": "gpt-realtime"}},
    }
}

# Each alone, on top of the least that renders.
FEATURES = {
    "least": {},
    "identity": {
        "azureWorkloadIdentity": {"enabled": True, "clientId": "00000000-0000-0000-0000-000000000001"},
        "config": {"deployments": {"east": {"entra": {"kind": "workload_identity"}}}},
    },
    "secret": {"secret": {**SECRET, "signingKey": "signing-secret", "adminTokenKey": "admin-token"}},
    "secret-to-look": {"secret": {**SECRET, "adminTokenKey": "admin-token", "metricsTokenKey": "metrics-token"}},
    "secret-only-to-look": {"secret": {**SECRET, "metricsTokenKey": "metrics-token"}},
    "existing-secret": {"secret": {"existingName": "ours", "signingKey": "signing-secret"}},
    "records": {
        "secret": SECRET,
        "records": {"spoolSizeLimit": "512Mi", "webhookSecretKey": "records-secret"},
        "config": {
            "records": {"sink": "webhook", "webhook": {"url": "https://collector.example/calls", "timeout": "5s"}}
        },
    },
    "redis-by-url": {"redis": {"url": "rediss://cache.example.com:6380/0", "settings": {"fallback_share": 0.25}}},
    "redis-by-secret": {"secret": SECRET, "redis": {"urlKey": "redis-url"}},
    "redis-bundled": {"redis": {"bundled": {"enabled": True}}},
    "tls": {"gateway": {"tlsSecret": "trunkline-tls"}},
    "admin-tls": {"adminTls": {"secret": "operators-tls"}},
    "admin-mtls": {"adminTls": {"secret": "operators-tls", "clientCaKey": "ca.crt"}},
    "admin-mtls-scraped": {
        "adminTls": {"secret": "operators-tls", "clientCaKey": "ca.crt"},
        "monitoring": {"podMonitor": {"enabled": True}, "tls": {"clientSecret": "prometheus-tls"}},
    },
    "public-url": {"gateway": {"publicUrl": "wss://voice.example.com"}},
    "load-balancer": {
        "service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]}
    },
    "node-port": {"service": {"type": "NodePort", "nodePort": 30080}},
    "ingress-nginx": {
        "ingress": {
            "enabled": True,
            "hosts": ["voice.example.com"],
            "tls": [{"hosts": ["voice.example.com"], "secretName": "voice"}],
        }
    },
    "ingress-haproxy": {"ingress": {"enabled": True, "controller": "haproxy", "hosts": ["voice.example.com"]}},
    "ingress-agic": {"ingress": {"enabled": True, "controller": "agic", "hosts": ["voice.example.com"]}},
    "gateway-api": {
        "gatewayApi": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["voice.example.com"]}
    },
    "hpa": {"autoscaling": {"enabled": True}},
    "keda": {"autoscaling": {"enabled": True, "kind": "keda", "callsPerPod": 150}},
    "audiosocket": {"audiosocket": {"enabled": True}},
    "pod-monitor": {"monitoring": {"podMonitor": {"enabled": True}}},
    "service-monitor": {"monitoring": {"serviceMonitor": {"enabled": True}}},
    "rules": {"monitoring": {"prometheusRule": {"enabled": True}}},
    "dashboards": {"monitoring": {"dashboards": {"enabled": True}}},
    "no-disruption-budget": {"podDisruptionBudget": {"enabled": False}},
    "no-network-policy": {"networkPolicy": {"enabled": False}},
    "open-network-policy": {
        "networkPolicy": {
            "allowInstanceMetadata": True,
            "callersFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"port": 6380, "protocol": "TCP"}]}],
        }
    },
    "no-admin-service": {"adminService": {"enabled": False}},
    "existing-account": {"serviceAccount": {"create": False, "name": "ours"}},
    "image-by-digest": {"image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "registry"}]}},
    "no-pre-stop": {"gateway": {"preStopSeconds": 0}},
    "placement": {
        "nodeSelector": {"pool": "voice"},
        "tolerations": [{"key": "voice", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "voice",
        "podLabels": {"team": "voice"},
        "podAnnotations": {"note": "x"},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
        ],
    },
    "extras": {
        "gateway": {
            "extraEnv": [{"name": "TRUNKLINE_LOG", "value": "debug"}],
            "extraVolumes": [{"name": "clips", "configMap": {"name": "clips"}}],
            "extraVolumeMounts": [{"name": "clips", "mountPath": "/clips"}],
        }
    },
}

# What excludes another of the list is left out: the other way is tried alone.
ALONE = {
    "existing-secret", "redis-by-url", "redis-by-secret", "node-port", "ingress-haproxy", "ingress-agic", "hpa",
    "service-monitor", "no-disruption-budget", "no-network-policy", "no-admin-service", "existing-account", "no-pre-stop",
}  # fmt: skip


def merged(*layers):
    """Values put on top of each other, as helm does with several files."""
    result = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, dict) and isinstance(result.get(key), dict):
                result[key] = merged(result[key], value)
            else:
                result[key] = copy.deepcopy(value)
    return result


EVERYTHING = merged(*(values for name, values in FEATURES.items() if name not in ALONE))
CASES = {**FEATURES, "everything": EVERYTHING}


@functools.cache
def chart():
    return helm.Chart.load(CHART)


def render(values, namespace="voice"):
    """The manifests, as a cluster would be given them."""
    values = merged(LEAST, values)
    chart().validate_schema(values)
    files = chart().render(values=values, name="edge", namespace=namespace)
    texts = [text for path, text in files.items() if not path.endswith("NOTES.txt")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def find(manifests, kind, name="edge-trunkline"):
    """The only one of that kind and name."""
    found = [it for it in manifests if it["kind"] == kind and it["metadata"]["name"] == name]
    assert len(found) == 1, [(it["kind"], it["metadata"]["name"]) for it in manifests]
    return found[0]


def assert_valid(manifests, minor):
    """By the schemas of that Kubernetes, in which no unknown field is allowed."""
    for manifest in manifests:
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, minor, strict=True)


def names(manifests):
    return [(it["kind"], it["metadata"]["name"]) for it in manifests]
