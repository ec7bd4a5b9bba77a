"""Calls by a real Asterisk, by AudioSocket and by chan_websocket, where tests/tools/asterisk.sh could fetch one."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
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
address = "@AUDIOSOCKET@"
[[providers.audiosocket.accounts]]
tenant = "acme"
agent = "desk"
uuid = "{UUID}"
"""

MODULES = """
pbx_config res_clioriginate res_sorcery_config app_audiosocket res_audiosocket chan_audiosocket res_http_websocket res_websocket_client chan_websocket
app_dial app_playback app_record app_senddtmf bridge_simple format_wav codec_resample codec_ulaw codec_alaw
res_timing_timerfd
"""


class Asterisk:
    """A running one, with a folder of its own for all that it writes."""

    def __init__(self, audiosocket: str, websocket: str):
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
            # The caller says three words and a pause later one more, and hears until it is silent.
            "extensions": f"""
[caller]
exten => s,1,Answer()
 same => n,Playback({self.folder}/three)
 same => n,Record({self.folder}/heard.wav,0,6,kq)
 same => n,Hangup()
exten => rude,1,Answer()
 same => n,Playback({self.folder}/three)
 same => n,Record({self.folder}/cut.wav,0,2,kq)
 same => n,Playback({self.folder}/nine)
 same => n,Record({self.folder}/heard.wav,0,3,kq)
 same => n,Hangup()
exten => keys,1,Answer()
 same => n,SendDTMF(42#,100,100)
 same => n,Record({self.folder}/heard.wav,0,5,kq)
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
""",
        }.items():
            (self.folder / f"etc/{name}.conf").write_text(text)
        for name, words in {"three": ("one", "two", "three"), "nine": ("nine",)}.items():
            with wave.open(str(self.folder / f"{name}.wav"), "wb") as clip:
                clip.setparams((1, 2, 8000, 0, "NONE", ""))
                clip.writeframes(spoken(*words))
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
        logs = [path.read_text(errors="replace") for path in sorted((self.folder / "log").iterdir()) if path.is_file()]
        return "\n".join(log[-3000:] for log in logs)

    def ask(self, command: str) -> str:
        asked = subprocess.run(self._command("-rx", command), capture_output=True, text=True, timeout=START_SECONDS)
        return asked.stdout

    def call(self, caller: str, gateway: str) -> bytes:
        """Connects the two and waits until both hung up; gives what the caller heard, PCM16 at 8 kHz."""
        heard = self.folder / "heard.wav"
        heard.unlink(missing_ok=True)
        said = self.ask(f"channel originate Local/{caller}@caller/n extension {gateway}@gateway")
        assert "No such command" not in said, said
        began = time.monotonic()

        def is_over() -> bool:
            found = re.search(r"(\d+) active channel", self.ask("core show channels"))
            return bool(found) and found[1] == "0" and time.monotonic() - began > 1

        self._wait(is_over, "the call never ended", CALL_SECONDS)
        if not heard.exists():
            return b""
        with wave.open(str(heard)) as clip:
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


class Line:
    """An Asterisk and the gateway that it calls."""

    def __init__(self, desk, asterisk: Asterisk):
        self.desk = desk
        self.asterisk = asterisk

    def call(self, caller: str, gateway: str) -> tuple[bytes, dict | None]:
        """What the caller heard, and what the gateway says of the call."""
        n_ended = len(self.ended())
        heard = self.asterisk.call(caller, gateway)
        deadline = time.monotonic() + 5
        while len(self.ended()) == n_ended and time.monotonic() < deadline:
            time.sleep(0.1)
        new = self.ended()[n_ended:]
        assert len(new) <= 1, new
        return heard, new[0] if new else None

    def ended(self) -> list[dict]:
        lines = self.desk.process.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if '"call ended"' in line]


@pytest.fixture(scope="module")
def line():
    # The gateway does not say which port it got, so it is told one that was free just now.
    with socket.create_server(("127.0.0.1", 0)) as free:
        audiosocket = f"127.0.0.1:{free.getsockname()[1]}"
    with running(ACCOUNT.replace("@AUDIOSOCKET@", audiosocket), secrets=(UUID, CALLER_KEY)) as desk:
        asterisk = Asterisk(audiosocket, desk.address)
        try:
            yield Line(desk, asterisk)
        finally:
            asterisk.stop()


@pytest.mark.parametrize("gateway", ["socket", "dial", "web", "text"])
def test_a_caller_hears_the_answer(line, gateway):
    heard, ended = line.call("s", gateway)
    assert ended and ended["end_reason"] == "caller_hangup", (ended, line.asterisk.tail())
    assert ended["turns"] == 1, (ended, line.asterisk.tail())
    assert likeness(spoken("one", "two", "three"), heard) > 0.9


@pytest.mark.parametrize("gateway", ["socket", "web"])
def test_a_caller_interrupts(line, gateway):
    _, ended = line.call("rude", gateway)
    assert ended and ended["end_reason"] == "caller_hangup", (ended, line.asterisk.tail())
    assert (ended["turns"], ended["barge_ins"]) == (2, 1), (ended, line.asterisk.tail())


@pytest.mark.parametrize("gateway", ["dial", "web"])
def test_keys_arrive(line, gateway):
    """They are answered aloud, which silence is not."""
    heard, ended = line.call("keys", gateway)
    assert ended and ended["end_reason"] == "caller_hangup", (ended, line.asterisk.tail())
    assert loudness(heard) > 100, (ended, line.asterisk.tail())


def test_a_stranger_is_hung_up(line):
    _, ended = line.call("s", "stranger")
    assert ended is None
