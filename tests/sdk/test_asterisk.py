"""Calls by a real Asterisk, by AudioSocket and by chan_websocket, whoever of the two dials, where tests/tools/asterisk.sh could fetch one."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import wave
from pathlib import Path

import pytest
from desk import likeness, running, spoken
from sound import loudness
from stack import CALLER_KEY, ROOT

UNPACKED = ROOT / ".asterisk/root"
LIBRARIES = next(iter(UNPACKED.glob("usr/lib/*/asterisk")), UNPACKED).parent
LOADER = next(iter(LIBRARIES.glob("ld-linux*.so.*")), None)

pytestmark = pytest.mark.skipif(
    LOADER is None, reason="no Asterisk here: tests/tools/asterisk.sh fetches one where apt knows a mirror of Debian"
)

# Far beyond what any step takes.
START_SECONDS = 30
CALL_SECONDS = 40

UUID = str(uuid.uuid4())

ACCOUNT = f"""
[listener.audiosocket]
address = "127.0.0.1:0"
[[providers.audiosocket.accounts]]
tenant = "acme"
agent = "desk"
uuid = "{UUID}"
[listener.asterisk.servers.main]
url = "ws://@HTTP@"
tenant = "acme"
"""

THREE = ("one", "two", "three")
# What they do, and how they are connected: by AudioSocket as application and as channel, by chan_websocket with
# control messages in JSON and in text, and by chan_websocket where the gateway is told to dial.
CALLERS = [
    "talk-socket",
    "talk-dial",
    "talk-web",
    "talk-text",
    "talk-waiting",
    "rude-socket",
    "rude-web",
    "keys-dial",
    "keys-web",
    "rude-stranger",
]

MODULES = """
pbx_config res_clioriginate res_sorcery_config app_audiosocket res_audiosocket chan_audiosocket res_http_websocket res_websocket_client chan_websocket
app_dial app_playback app_record app_senddtmf bridge_simple format_wav codec_resample codec_ulaw codec_alaw
res_timing_timerfd
"""


class Asterisk:
    """A running one, with a folder of its own for all that it writes."""

    def __init__(self, audiosocket: str, websocket: str, http: str):
        # Its control socket's path has to be a short one.
        self.folder = Path(tempfile.mkdtemp(prefix="pbx-"))
        for name in ("etc", "lib", "spool", "run", "log"):
            (self.folder / name).mkdir()
        modules = "\n".join(f"load = {name}.so" for name in MODULES.split())
        for name, text in {
            "asterisk": f"""
[directories]
astetcdir => {self.folder}/etc
astmoddir => {LIBRARIES}/asterisk/modules
astvarlibdir => {self.folder}/lib
astdbdir => {self.folder}/lib
astkeydir => {self.folder}/lib
astdatadir => {UNPACKED}/usr/share/asterisk
astagidir => {self.folder}/lib
astspooldir => {self.folder}/spool
astrundir => {self.folder}/run
astlogdir => {self.folder}/log
""",
            "http": "[general]\nenabled = yes\nbindaddr = {}\nbindport = {}\n".format(*http.split(":")),
            "modules": f"[modules]\nautoload = no\n{modules}\n",
            "logger": "[logfiles]\nmessages => notice,warning,error,verbose(3)\n",
            "websocket_client": f"""
[trunkline]
type = websocket_client
uri = ws://{websocket}/asterisk/media/desk
protocols = media
username = acme
password = {CALLER_KEY}
connection_type = per_call_config
tls_enabled = no
""",
            # A caller's extension says what it does, and how it is connected.
            "extensions": f"""
[caller]
exten => _talk-.,1,Answer()
 same => n,Playback({self.folder}/three)
 same => n,Record({self.folder}/${{EXTEN}}.wav,0,5,kq)
 same => n,Hangup()
; Waits until the gateway has come.
exten => talk-waiting,1,Answer()
 same => n,Wait(6)
 same => n,Playback({self.folder}/three)
 same => n,Record({self.folder}/${{EXTEN}}.wav,0,5,kq)
 same => n,Hangup()
exten => _rude-.,1,Answer()
 same => n,Playback({self.folder}/three)
 same => n,Record({self.folder}/cut.wav,0,2,kq)
 same => n,Playback({self.folder}/nine)
 same => n,Record({self.folder}/${{EXTEN}}.wav,0,3,kq)
 same => n,Hangup()
exten => _keys-.,1,Answer()
 same => n,Playback({self.folder}/silence)
 same => n,SendDTMF(42#,100,100)
 same => n,Record({self.folder}/${{EXTEN}}.wav,0,5,kq)
 same => n,Hangup()
[gateway]
exten => socket,1,Answer()
 same => n,AudioSocket({UUID},{audiosocket})
 same => n,Hangup()
exten => stranger,1,Answer()
 same => n,AudioSocket({uuid.uuid4()},{audiosocket})
 same => n,Hangup()
exten => dial,1,Dial(AudioSocket/{audiosocket}/{UUID}/c(slin16))
exten => web,1,Dial(WebSocket/trunkline/c(slin16)f(json)v(queue=billing))
exten => text,1,Dial(WebSocket/trunkline/c(ulaw)v(queue=billing))
exten => waiting,1,Dial(WebSocket/INCOMING/c(slin16)f(json)n)
""",
        }.items():
            (self.folder / f"etc/{name}.conf").write_text(text)
        for name, words in {"three": THREE, "nine": ("nine",), "silence": ()}.items():
            with wave.open(str(self.folder / f"{name}.wav"), "wb") as clip:
                clip.setparams((1, 2, 8000, 0, "NONE", ""))
                clip.writeframes(spoken(*words) or bytes(8000))
        self.log = self.folder / "log/messages"
        with (self.folder / "log/stdout").open("wb") as log:
            self._process = subprocess.Popen(
                self._command("-f", "-n", "-vvv"), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait(lambda: "fully booted" in self.ask("core waitfullybooted"), "it never was ready")
        except BaseException:
            self.stop()
            raise

    def _command(self, *arguments: str) -> list[str]:
        # By its own loader and libraries, which are newer than this system's.
        program = [str(LOADER), "--library-path", str(LIBRARIES), str(UNPACKED / "usr/sbin/asterisk")]
        return [*program, "-C", str(self.folder / "etc/asterisk.conf"), *arguments]

    def _wait(self, condition, otherwise: str, seconds: float = START_SECONDS):
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self._process.poll() is not None
            assert not ended and time.monotonic() < deadline, f"{otherwise}:\n{self.tail()}"
            time.sleep(0.3)

    def tail(self) -> str:
        """What it said last, but for the lines of our own asking."""
        logs = [path.read_text(errors="replace") for path in sorted((self.folder / "log").iterdir()) if path.is_file()]
        shown = [[line for line in log.splitlines() if "Remote UNIX connection" not in line] for log in logs]
        return "\n".join(line for lines in shown for line in lines[-60:])

    def ask(self, command: str) -> str:
        asked = subprocess.run(self._command("-rx", command), capture_output=True, text=True, timeout=START_SECONDS)
        return asked.stdout

    def connection_id(self) -> str:
        """That of the channel which waits for the gateway."""
        found = None

        def is_there() -> bool:
            nonlocal found
            # A line for each channel, in no order, that begins with its name; that of the caller has ours as what it dials.
            channel = re.search(r"^WebSocket/INCOMING/[^!\s]+", self.ask("core show channels concise"), re.MULTILINE)
            shown = self.ask(f"core show channel {channel[0]}") if channel else ""
            found = re.search(r"MEDIA_WEBSOCKET_CONNECTION_ID=(\S+)", shown)
            return bool(found)

        self._wait(is_there, "no channel waits")
        return found[1]

    def call(self, callers: list[str], fetch):
        """Makes these calls at once, has those fetched that wait, and waits until all have hung up."""
        for caller in callers:
            gateway = caller.split("-")[1]
            said = self.ask(f"channel originate Local/{caller}@caller/n extension {gateway}@gateway")
            assert "No such command" not in said, said
            if gateway == "waiting":
                fetch(self.connection_id())
        began = time.monotonic()

        def are_over() -> bool:
            found = re.search(r"(\d+) active channel", self.ask("core show channels"))
            return bool(found) and found[1] == "0" and time.monotonic() - began > 2

        self._wait(are_over, "the calls never ended", CALL_SECONDS)

    def heard(self, caller: str) -> bytes:
        """What the caller heard after it spoke, PCM16 at 8 kHz."""
        with wave.open(str(self.folder / f"{caller}.wav")) as clip:
            assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (8000, 1, 2)
            return clip.readframes(clip.getnframes())

    def stop(self):
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def calls():
    """An Asterisk that has made all calls, and what the gateway says of them by dialect."""
    # Asterisk does not say which port it got, so it is told one. Bound without listening it is kept from everybody but it.
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        http = f"127.0.0.1:{kept.getsockname()[1]}"
        with running(ACCOUNT.replace("@HTTP@", http), secrets=(UUID, CALLER_KEY)) as desk:
            asterisk = Asterisk(desk.process.address("audiosocket"), desk.address, http)
            try:
                asterisk.call(CALLERS, lambda connection_id: fetch(desk, connection_id))
                deadline = time.monotonic() + 5
                while len(ended(desk)) < len(CALLERS) - 1 and time.monotonic() < deadline:
                    time.sleep(0.1)
                yield asterisk, ended(desk)
            finally:
                asterisk.stop()


def fetch(desk, connection_id: str):
    """Tells the gateway to take the call that waits; a second time there is none."""

    def status() -> int:
        asked = json.dumps({"agent": "desk", "connection_id": connection_id, "parameters": {"queue": "billing"}})
        headers = {"api-key": CALLER_KEY, "content-type": "application/json"}
        request = urllib.request.Request(f"http://{desk.address}/asterisk/dial", asked.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code

    assert status() == 201
    assert status() == 409
    connection_id = str(uuid.uuid4())
    assert status() == 404


def ended(desk) -> list[dict]:
    lines = desk.process.log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if '"call ended"' in line]


@pytest.mark.parametrize("caller", [caller for caller in CALLERS if caller.startswith("talk-")])
def test_a_caller_hears_the_answer(calls, caller):
    asterisk, _ = calls
    assert likeness(spoken(*THREE), asterisk.heard(caller)) > 0.9, asterisk.tail()


@pytest.mark.parametrize("caller", [caller for caller in CALLERS if caller.startswith("keys-")])
def test_keys_are_answered(calls, caller):
    """Aloud, which the silence around them is not."""
    asterisk, _ = calls
    assert loudness(asterisk.heard(caller)) > 100, asterisk.tail()


@pytest.mark.parametrize("dialect, listeners", [("audiosocket", 2), ("asterisk", 3)])
def test_the_gateway_saw_what_happened(calls, dialect, listeners):
    """Of each dialect callers who listened, one who interrupted, and one with keys; a stranger was hung up."""
    asterisk, found = calls
    of_dialect = [call for call in found if call["dialect"] == dialect]
    assert {call["end_reason"] for call in of_dialect} == {"caller_hangup"}, asterisk.tail()
    assert sorted((call["turns"], call["barge_ins"]) for call in of_dialect) == [
        (0, 0),
        *[(1, 0)] * listeners,
        (2, 1),
    ]
