//! WebSocket by hand, as little of it as both ends of a measurement need: whole frames, an upgrade, TLS under it.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;

use mio::event::Event;
use mio::net::TcpStream;
use rustls::Connection;

/// A text frame.
pub(crate) const TEXT: u8 = 1;
/// A ping.
pub(crate) const PING: u8 = 9;
/// A pong.
pub(crate) const PONG: u8 = 10;
/// A close frame.
pub(crate) const CLOSE: u8 = 8;

/// A mask that is not all zeros. One is enough: nobody on loopback guesses it.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Read at once.
const CHUNK: usize = 4 * 1024;

/// Appends a whole frame; masked as clients must.
pub(crate) fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], is_masked: bool) {
    out.push(0x80 | opcode);
    let mask_bit = u8::from(is_masked) << 7;
    match payload.len() {
        length @ 0..=125 => out.push(mask_bit | length as u8),
        length @ 126..=65_535 => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if !is_masked {
        out.extend_from_slice(payload);
        return;
    }
    out.extend_from_slice(&MASK);
    let from = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[from..], MASK);
}

/// Takes a mask off, or puts it on.
pub(crate) fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask, mask].concat().try_into().expect("eight bytes"));
    let mut words = bytes.chunks_exact_mut(8);
    for eight in &mut words {
        let value = u64::from_ne_bytes((&*eight).try_into().expect("eight bytes")) ^ word;
        eight.copy_from_slice(&value.to_ne_bytes());
    }
    for (byte, mask) in words
        .into_remainder()
        .iter_mut()
        .zip(mask.into_iter().cycle())
    {
        *byte ^= mask;
    }
}

/// A whole frame at the beginning of some bytes.
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) payload: Range<usize>,
}

impl Frame {
    /// None if it is not all there.
    pub(crate) fn first_in(bytes: &[u8]) -> Option<Self> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (mut at, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(array(bytes, 2)?))),
            127 => (10, u64::from_be_bytes(array(bytes, 2)?) as usize),
            length => (2, usize::from(length)),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(array(bytes, at)?),
        };
        at += if mask.is_some() { 4 } else { 0 };
        (bytes.len() >= at + length).then(|| Self {
            opcode: first & 0x0f,
            mask,
            payload: at..at + length,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A socket, perhaps with TLS, that never blocks: what cannot be written yet waits.
pub(crate) struct Stream {
    pub(crate) socket: TcpStream,
    tls: Option<Box<Connection>>,
    /// What was read and not taken yet, from `taken` on.
    input: Vec<u8>,
    taken: usize,
    output: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(socket: TcpStream, tls: Option<Connection>) -> Self {
        // Small frames do not wait for each other.
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            tls: tls.map(Box::new),
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
        }
    }

    /// Begins to connect.
    pub(crate) fn connect(to: SocketAddr, tls: Option<Connection>) -> io::Result<Self> {
        Ok(Self::new(TcpStream::connect(to)?, tls))
    }

    /// Reads all there is after this event. False if the far end has gone.
    pub(crate) fn fill(&mut self, event: &Event) -> bool {
        self.input.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; CHUNK];
        loop {
            let got = match &mut self.tls {
                None => self.socket.read(&mut chunk),
                Some(tls) => match tls.read_tls(&mut self.socket) {
                    Ok(0) => Ok(0),
                    Ok(_) => {
                        let Ok(state) = tls.process_new_packets() else {
                            return false;
                        };
                        let from = self.input.len();
                        self.input.resize(from + state.plaintext_bytes_to_read(), 0);
                        if tls.reader().read_exact(&mut self.input[from..]).is_err() {
                            return false;
                        }
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match got {
                Ok(0) => return false,
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    // Less than was asked for is all that there is: what comes later is told of anew, but for an end
                    // that was told of already.
                    if n < CHUNK && !event.is_read_closed() {
                        return self.flush();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.flush(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// What was read and not taken yet.
    pub(crate) fn input(&mut self) -> &mut [u8] {
        &mut self.input[self.taken..]
    }

    /// So much of it is done with.
    pub(crate) fn take(&mut self, n: usize) {
        self.taken += n;
    }

    /// What is to be sent is appended here, and goes with [`Stream::flush`].
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Sends what can be sent. False if the far end has gone.
    pub(crate) fn flush(&mut self) -> bool {
        let result = match &mut self.tls {
            None => write_all(&mut self.socket, &mut self.output),
            Some(tls) => {
                if !self.output.is_empty() && !tls.is_handshaking() {
                    let _ = tls.writer().write_all(&self.output);
                    self.output.clear();
                }
                loop {
                    if !tls.wants_write() {
                        break Ok(());
                    }
                    if let Err(error) = tls.write_tls(&mut self.socket) {
                        break Err(error);
                    }
                }
            }
        };
        match result {
            Ok(()) => true,
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
            ),
        }
    }
}

fn write_all(socket: &mut TcpStream, output: &mut Vec<u8>) -> io::Result<()> {
    while !output.is_empty() {
        let n = socket.write(output)?;
        output.drain(..n);
    }
    Ok(())
}

/// The end of an HTTP head, if it is all there.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// A request for a WebSocket.
pub(crate) fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The answer to one, if it is one.
pub(crate) fn upgrade_answer(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then(|| value.trim())
    })?;
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    Some(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}
