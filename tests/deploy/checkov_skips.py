"""What checkov asks for and deploy/ does otherwise, each with the reason. One that checkov no longer names fails."""

from tools import BIN

KUBERNETES = {
    "CKV_K8S_11": "a limit of CPU throttles, and throttling makes audio late",
    "CKV_K8S_15": "a release's tag is never moved, and a pod must start while the registry is away",
    "CKV_K8S_43": "the digest is known when an image is pushed: image.digest takes it",
}

DOCKERFILE = {
    "CKV_DOCKER_2": "there is no shell to run a check; Kubernetes asks /livez itself",
}


def arguments(framework, skips):
    """checkov's command line, without what asks the network."""
    command = [BIN / "checkov", "--framework", framework, "--compact", "--skip-download"]
    return [*command, "--skip-check", ",".join(skips)] if skips else command
