"""What checkov asks for and deploy/ does otherwise, each with the reason. One that checkov no longer names fails."""

import json

from tools import BIN, run

KUBERNETES = {
    "CKV_K8S_11": "a limit of CPU throttles, and throttling makes audio late",
    "CKV_K8S_15": "a release's tag is never moved, and a pod must start while the registry is away",
    "CKV_K8S_43": "the digest is known when an image is pushed: image.digest takes it",
}

DOCKERFILE = {
    "CKV_DOCKER_2": "there is no shell to run a check; Kubernetes asks /livez itself",
}

BICEP = {
    "CKV_AZURE_8": "the dashboard that it asks to be switched off is not in AKS since 1.19",
    "CKV_AZURE_134": "pods outside a virtual network of one's own reach it by its public name, with tokens only",
    "CKV_AZURE_139": "private endpoints of a registry need its Premium tier",
    "CKV_AZURE_166": "quarantine is a preview of the Premium tier",
    "CKV_AZURE_172": "it is on; the field is a string in Azure, for which checkov wants a boolean",
}


def findings(framework, skips, *where):
    """What checkov finds beside the skips, which must all be found too."""
    command = [BIN / "checkov", "--framework", framework, "--skip-download", "--output", "json", *where]
    done = run(*command)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise AssertionError(done.stdout) from None
    assert report["summary"]["parsing_errors"] == 0, report["results"]["parsing_errors"]
    assert report["summary"]["passed"] > 0
    failed = {(it["check_id"], it["check_name"], it["resource"]) for it in report["results"]["failed_checks"]}
    unneeded = set(skips) - {check_id for check_id, _, _ in failed}
    assert not unneeded, f"no longer needed: {unneeded}"
    return sorted(it for it in failed if it[0] not in skips)
