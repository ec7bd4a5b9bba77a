"""One connection of the suite: the object that its cases talk to, on either side of a WebSocket.

It does what autobahn's `WebSocketProtocol` does for a case (names are autobahn's, since cases use them): sends frames
as it is told, right or wrong; judges what comes back by RFC 6455; and notes who closed, failed or dropped the
connection. Payloads are `str` of Latin-1 towards cases and bytes on the wire.
"""

import asyncio
import base64
import hashlib
import os
import struct
from types import SimpleNamespace

from cases import WebSocketProtocol

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# How long the peer may take for its part of a closing handshake, and a server to end the connection after it. Ten
# times the suite's own patience: this machine may be busy, and waiting proves the same.
PATIENCE = 10.0

CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}


def mask(payload: bytes, key: bytes) -> bytes:
    if not payload:
        return b""
    whole = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(len(payload), "big")


class Peer:
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007

    def __init__(self, reader, writer, is_server: bool):
        self.reader, self.writer = reader, writer
        self.factory = SimpleNamespace(isServer=is_server)
        self.state = WebSocketProtocol.STATE_CONNECTING
        self.connectionWasOpen = False
        self.closedByMe = self.failedByMe = self.droppedByMe = self.wasClean = False
        self.remoteCloseCode = self.localCloseCode = self.localCloseReason = None
        self.createWirelog = True
        self.autoFragmentSize = 0
        self.txFrameStats = {}
        self.trafficStats = None
        self.fault = None
        self.timers = []
        self.outgoing = asyncio.Queue()

    async def run(self, case_class):
        """Runs a case to its end and returns it, judged."""
        self.case = case_class(self)
        self.state = WebSocketProtocol.STATE_OPEN
        self.connectionWasOpen = True
        writing = asyncio.create_task(self.write())
        self.case.onOpen()
        try:
            await self.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        self.state = WebSocketProtocol.STATE_CLOSED
        writing.cancel()
        for timer in self.timers:
            timer.cancel()
        self.case.onConnectionLost(self.failedByMe)
        self.writer.close()
        return self.case

    # What comes in.

    async def read(self):
        message, opcode = None, None
        while self.state != WebSocketProtocol.STATE_CLOSED:
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            is_masked = second & 0x80 != 0
            key = await self.reader.readexactly(4) if is_masked else None
            payload = await self.reader.readexactly(length)
            if is_masked:
                payload = mask(payload, key)
            if first & 0x70:
                self.fail(1002, "a reserved bit is set")
            if is_masked != self.factory.isServer:
                self.fail(1002, "wrongly masked")
            kind, is_final = first & 0x0F, first & 0x80 != 0
            if kind >= 8:
                if kind > 10 or not is_final or length > 125:
                    self.fail(1002, "a wrong control frame")
                self.take_control(kind, payload)
                continue
            if kind > 2 or (kind == 0) != (message is not None):
                self.fail(1002, "a wrong data frame")
            message = (message or b"") + payload
            opcode = kind or opcode
            if not is_final:
                continue
            if opcode == 1:
                try:
                    message.decode()
                except UnicodeDecodeError:
                    self.fail(1007, "text that is no UTF-8")
            if not self.failedByMe:
                self.case.onMessage(message.decode("latin-1"), opcode == 2)
            message = None

    def take_control(self, kind, payload):
        if kind == 8:
            self.take_close(payload)
        elif kind == 9:
            self.case.onPing(payload.decode("latin-1"))
            if self.state == WebSocketProtocol.STATE_OPEN:
                self.send(10, payload)
        else:
            self.case.onPong(payload.decode("latin-1"))

    def take_close(self, payload):
        if len(payload) == 1:
            self.fail(1002, "a close code of one byte")
        if len(payload) >= 2:
            (code,) = struct.unpack("!H", payload[:2])
            self.remoteCloseCode = code
            if code not in CLOSE_CODES and not 3000 <= code <= 4999:
                self.fail(1002, f"close code {code}")
            try:
                payload[2:].decode()
            except UnicodeDecodeError:
                self.fail(1007, "a close reason that is no UTF-8")
        if self.state == WebSocketProtocol.STATE_CLOSING:
            self.wasClean = True
            if self.factory.isServer:
                self.drop()
            else:
                # A server ends the connection (RFC 6455, 7.1.1).
                self.later(PATIENCE, self.drop_unclean)
        elif self.state == WebSocketProtocol.STATE_OPEN:
            self.wasClean = True
            self.sendCloseFrame(1000, isReply=True)
            if self.factory.isServer:
                self.drop()

    # What goes out.

    async def write(self):
        while True:
            chunk, alone = await self.outgoing.get()
            if chunk is None:
                self.writer.close()
                return
            self.writer.write(chunk)
            if alone:
                await self.writer.drain()
                # The other task of a small machine may get its turn, so that chunks stay apart.
                await asyncio.sleep(0)

    def send_bytes(self, data: bytes, chopsize=None, sync=False):
        if chopsize:
            for at in range(0, len(data), chopsize):
                self.outgoing.put_nowait((data[at : at + chopsize], True))
        elif data:
            self.outgoing.put_nowait((data, sync))

    def send(self, opcode, payload: bytes, fin=True, rsv=0, chopsize=None, sync=False):
        self.txFrameStats[opcode] = self.txFrameStats.get(opcode, 0) + 1
        first = (0x80 if fin else 0) | rsv << 4 | opcode
        head, key = self.header(first, len(payload))
        self.send_bytes(head + (mask(payload, key) if key else payload), chopsize, sync)

    def header(self, first, length):
        masked = 0 if self.factory.isServer else 0x80
        if length < 126:
            head = struct.pack("!BB", first, masked | length)
        elif length < 0x10000:
            head = struct.pack("!BBH", first, masked | 126, length)
        else:
            head = struct.pack("!BBQ", first, masked | 127, length)
        key = os.urandom(4) if masked else b""
        return head + key, key

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, mask=None, payload_len=None, chopsize=None, sync=False):
        if payload_len is not None:
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        self.send(opcode, payload.encode("latin-1"), fin, rsv, chopsize, sync)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None, sync=False):
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        data, opcode = payload.encode("latin-1"), 2 if isBinary else 1
        size = fragmentSize or self.autoFragmentSize or len(data) or 1
        pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        for n, piece in enumerate(pieces):
            self.send(opcode if n == 0 else 0, piece, fin=n + 1 == len(pieces), sync=sync)

    def beginMessage(self, isBinary=False):
        self.next_opcode = 2 if isBinary else 1

    def beginMessageFrame(self, length):
        head, self.key = self.header(self.next_opcode, length)
        self.next_opcode, self.n_sent = 0, 0
        self.send_bytes(head)

    def sendMessageFrameData(self, payload, sync=False):
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        data = payload.encode("latin-1")
        if self.key:
            turn = self.n_sent % 4
            data = mask(data, self.key[turn:] + self.key[:turn])
        self.n_sent += len(payload)
        self.send_bytes(data, sync=sync)

    def endMessage(self):
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.send(0, b"")

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, reason)

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.state != WebSocketProtocol.STATE_OPEN:
            return
        payload = b"" if code is None else struct.pack("!H", code)
        self.send(8, payload + (reasonUtf8 or "").encode("latin-1"))
        self.state = WebSocketProtocol.STATE_CLOSING
        self.closedByMe = not isReply
        self.localCloseCode, self.localCloseReason = code, reasonUtf8
        if self.closedByMe:
            self.later(PATIENCE, self.drop_unless_clean)

    # How it ends.

    def fail(self, code, fault):
        self.fault = self.fault or fault
        self.failConnection(code)

    def failConnection(self, code=1001):
        if self.state == WebSocketProtocol.STATE_CLOSED:
            return
        self.failedByMe = True
        if self.state == WebSocketProtocol.STATE_CLOSING:
            self.drop()
        else:
            self.sendCloseFrame(code)

    def drop(self):
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self.droppedByMe = True
            self.state = WebSocketProtocol.STATE_CLOSED
            self.outgoing.put_nowait((None, False))

    def drop_unclean(self):
        self.wasClean = False
        self.writer.transport.abort()
        self.drop()

    def drop_unless_clean(self):
        if not self.wasClean:
            self.drop_unclean()

    # What cases ask for later.

    def later(self, delay, then):
        def if_open():
            if self.state != WebSocketProtocol.STATE_CLOSED:
                then()

        self.timers.append(asyncio.get_running_loop().call_later(delay, if_open))

    def continueLater(self, delay, then, tag=None):
        self.later(delay, then)

    def killAfter(self, delay):
        self.later(max(delay, PATIENCE), self.failConnection)

    def closeAfter(self, delay):
        self.later(max(delay, 2.0), self.sendClose)

    def enableWirelog(self, enable):
        pass


async def read_head(reader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def accept_for(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


async def connect(port: int) -> Peer:
    """A client of the listener at that port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    head = await read_head(reader)
    assert head.startswith(b"HTTP/1.1 101 ") and accept_for(key) in head, head
    return Peer(reader, writer, is_server=False)


async def accept(reader, writer) -> Peer:
    """The server of a client that has connected, its session opened as a deployment's is."""
    head = await read_head(reader)
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    key = next(value for name, value in fields.items() if name.lower() == b"sec-websocket-key")
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept_for(key) + b"\r\n\r\n"
    )
    peer = Peer(reader, writer, is_server=True)
    peer.send(1, b'{"type":"session.created","session":{"id":"sess_suite","type":"realtime"}}')
    peer.txFrameStats = {}
    return peer
