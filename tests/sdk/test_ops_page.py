"""The operations page in a real browser, in front of a real gateway with calls; a picture of it stays in pytest's folder."""

import hashlib
import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import Browser, program
from stack import BINARY, CALLER_KEY, COMMON, DEPLOYMENT_KEY, Stack
from test_process import status, upgrade_status, wait_for
from websockets.sync.client import connect

if program() is None:
    pytest.skip("there is no Chromium: see tests/tools/setup.sh", allow_module_level=True)

LOADTEST = str(Path(BINARY).with_name("trunkline-loadtest"))
TOKEN = "operators-0123456789abcdef"
# Names are the operator's to choose, and are text.
MARKUP = "<img src=x onerror=alert(1)>"
MARKUP_KEY = "markup-0123456789abcdef"
LONG_REPLIES = (
    COMMON
    + """
[reply]
mode = "script"

[[reply.turns]]
say = "We are open from nine to five, every day but Sunday."

[[reply.turns]]
say = "Your order is on its way and comes tomorrow."

[[reply.turns]]
say = "You are welcome. Is there anything else that you want to know?"
"""
)


def config(simulator: str, token: Path) -> str:
    keys = "".join(
        f"[[auth.keys]]\ntenant = '{tenant}'\nsha256 = '{hashlib.sha256(key.encode()).hexdigest()}'\n[tenants.'{tenant}']\n"
        for tenant, key in (("acme", CALLER_KEY), (MARKUP, MARKUP_KEY))
    )
    deployments = "".join(
        f"[deployments.{name}]\nurl = 'ws://{simulator}'\nmodel = 'gpt-realtime'\napi_key = '{DEPLOYMENT_KEY}'\nregion = '{region}'\n"
        "quota = { tokens_per_minute = 6000, requests_per_minute = 60 }\n"
        for name, region in (("north", "northeurope"), ("west", "<b>west</b>"))
    )
    return f"""
[listener]
address = "127.0.0.1:0"
max_calls = 40
[listener.shed]
loop_lag = "0s"
[admin]
address = "127.0.0.1:0"
token_file = "{token}"
[auth]
mode = "keys"
{keys}
{deployments}
[pools.main]
deployments = [{{ name = "north" }}, {{ name = "west", priority = 1 }}]
[models]
main = "main"
[agents.reception]
deployment = "main"
greeting = "Greet the caller."
[agents.reception.session.turn_detection]
type = "server_vad"
silence_duration = "300ms"
[drain]
grace = "60s"
"""


class Gateway:
    def __init__(self, stack: Stack, token: Path):
        self.process = stack.start(["serve"], "gateway", config(stack.simulators["script"], token))
        self.callers = self.process.address("callers")
        self.admin = self.process.address("admin")
        self.token = token

    def call(self, key: str = CALLER_KEY):
        url = f"ws://{self.callers}/v1/realtime?model=main"
        return connect(url, additional_headers={"Authorization": f"Bearer {key}"})

    def run(self, *arguments: str):
        command, *rest = arguments
        shown = ["--address", f"http://{self.admin}", "--token-file", str(self.token)]
        done = subprocess.run([BINARY, command, *shown, *rest], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done

    @contextmanager
    def phones(self, n: int):
        """So many callers who talk to the agent, until the end of the block."""
        command = [LOADTEST, "call", f"ws://{self.callers}/v1/audio/reception", "--api-key", CALLER_KEY, "--turns", "20"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        phones = [subprocess.Popen(command, **quiet) for _ in range(n)]
        try:
            yield
        finally:
            for phone in phones:
                phone.kill()
                phone.wait()


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


@pytest.fixture
def gateway(token):
    with Stack(gateway=False, simulators={"script": LONG_REPLIES}) as stack:
        yield Gateway(stack, token)


@pytest.fixture
def browser():
    with Browser() as browser:
        browser.look(1360, 900)
        yield browser


def sign_in(browser: Browser, token: str):
    browser.wait("document.activeElement?.id === 'token'")
    browser.type(token)
    browser.press("Enter")


def button(call: str) -> str:
    return f"[...document.querySelectorAll('#calls-table tbody tr')].find((row) => row.innerText.includes({json.dumps(call)}))?.querySelector('button')"


def check_quiet(browser: Browser, gateway: Gateway):
    """Nothing is wrong with the page, and it asked nobody but its gateway. A 401 is what asks for the token."""
    complaints = [it for it in browser.complaints() if "401 (Unauthorized)" not in it]
    assert complaints == []
    requests = browser.requests()
    assert len(requests) > 5
    assert {it for it in requests if not it.startswith(f"http://{gateway.admin}/")} == set()
    assert browser.run("document.querySelectorAll('img, b[onclick], script:not([src])').length") == 0


def test_an_operator_sees_calls_come_and_go(browser, gateway, tmp_path):
    browser.open(f"http://{gateway.admin}/")
    sign_in(browser, "not the token")
    browser.see("does not take this token")
    sign_in(browser, TOKEN)
    browser.see("taking calls", "header")
    browser.see("Nobody was refused of late.")
    assert browser.run("location.pathname") == "/ops/"
    assert browser.text("#calls-now") == "0"
    # A refusal of an unknown caller, and one of a known one.
    assert upgrade_status(gateway.callers, "/v1/realtime?model=main") == 401
    headers = {"Authorization": f"Bearer {CALLER_KEY}"}
    assert upgrade_status(gateway.callers, "/v1/realtime?model=nothing", headers) == 404
    browser.see("model_not_found", "#refusals-table")
    rows = browser.run("[...document.querySelectorAll('#refusals-table tbody tr')].map((row) => row.innerText)")
    assert [("acme" in row, "404" in row) for row in rows] == [(True, True), (False, False)], rows
    with gateway.phones(3), gateway.call(MARKUP_KEY):
        browser.wait("document.querySelectorAll('#calls-table tbody tr').length === 4")
        browser.see(MARKUP, "#calls-table")
        browser.see("<b>west</b>", "#deployments-table")
        assert browser.text("#calls-now") == "4"
        # Sorted and filtered, by the keyboard too.
        browser.run("document.querySelector('#filter').focus()")
        browser.type("reception audio")
        browser.wait("document.querySelectorAll('#calls-table tbody tr').length === 3")
        browser.see("3 of 4 fit", "#calls-drawn")
        browser.run("document.querySelector('#calls-table th button').focus()")
        browser.press("Enter")
        ids = "[...document.querySelectorAll('#calls-table tbody button')].map((it) => it.innerText)"
        assert browser.run(ids) == sorted(browser.run(ids))
        assert browser.run("document.querySelector('#calls-table th').getAttribute('aria-sort')") == "ascending"
        # What happened in a call.
        browser.run(f"{button('reception')}.focus()")
        browser.press("Enter")
        browser.see("Turn answered within", "#moments")
        browser.wait("document.querySelectorAll('#call-chart rect.model').length >= 2")
        browser.see("First audio", "#moments")
        assert "turns, the slowest answered within" in browser.run(
            "document.querySelector('#call-chart svg').getAttribute('aria-label')"
        )
        browser.wait("Number(document.querySelector('#turns-now').innerText) >= 6")
        assert browser.text("#p50-now") != "–"
        assert "M" in browser.run("document.querySelector('#p95-line path').getAttribute('d')")
        gateway.run("drain", "north")
        browser.see("drained", "#deployments-table")
        # What is used comes back by the second.
        browser.wait("[...document.querySelectorAll('.bar')].some((bar) => bar.getAttribute('aria-valuenow') > 0)")
        check_bars(browser)
        pictures(browser, tmp_path)
    browser.see("It is over", "#call-state")
    browser.run("document.querySelector('#filter').value = ''")
    browser.wait("document.querySelectorAll('#calls-table tbody tr').length === 0")
    # The focus goes back to where it makes sense.
    browser.run("document.querySelector('#call-close').click()")
    assert browser.run("document.activeElement.id") == "filter"
    check_quiet(browser, gateway)


def check_bars(browser: Browser):
    bars = browser.run(
        "[...document.querySelectorAll('#deployments-table .bar')].map((bar) => [bar.getAttribute('aria-valuetext'), "
        "Number(bar.getAttribute('aria-valuenow')), bar.firstElementChild.style.inlineSize])"
    )
    assert len(bars) == 4
    for told, percent, width in bars:
        used, limit = (float(it.replace(",", "")) for it in told.split(" of "))
        assert abs(percent - 100 * used / limit) <= 1.5 and width.endswith("%"), bars


def pictures(browser: Browser, folder: Path):
    """For people to look at; that nothing sticks out at the side is checked here."""
    for name, width, scheme in (("wide", 1360, "light"), ("dark", 1360, "dark"), ("phone", 390, "light")):
        browser.look(width, 900, scheme)
        browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert browser.run("document.documentElement.scrollWidth") <= width, name
        browser.screenshot(folder / f"ops-{name}.png")
        assert (folder / f"ops-{name}.png").stat().st_size > 20_000
    browser.look(1360, 900)


def test_a_gateway_that_goes_away_is_told(browser, gateway):
    browser.open(f"http://{gateway.admin}/ops/")
    sign_in(browser, TOKEN)
    with gateway.call():
        browser.see("realtime", "#calls-table")
        # It drains for as long as the call lasts.
        gateway.run("drain", "--deadline", "60s")
        browser.see("draining", "#standing")
        assert upgrade_status(gateway.callers, "/v1/realtime?model=main") in (401, 503)
        check_quiet(browser, gateway)
    wait_for(lambda: gateway.process._process.poll() is not None)
    browser.see("Stale: no answer since", "#freshness")


def test_without_a_token_only_this_machine_is_shown_anything(browser, tmp_path):
    more = '[admin]\naddress = "127.0.0.1:0"\n'
    with Stack(simulators={"parrot": COMMON}) as stack:
        assert more in (Path(stack._folder.name) / "gateway.toml").read_text()
        browser.open(f"http://{stack.admin}/ops")
        browser.see("taking calls", "header")
        assert not browser.run("[...document.querySelectorAll('#sign-in, #sign-out')].some((it) => it.checkVisibility())")
        assert status(f"http://{stack.admin}/ops/state") == 200
        # Nothing is asked while nobody looks.
        browser.see("ga-parrot", "#deployments-table")
        assert browser.complaints() == []
