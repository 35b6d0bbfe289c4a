"""TLS over any trio stream, TLS itself included: trio's half-closeable stream, told to the letter.

Theory of operation. OpenSSL works on two memory buffers and never waits; only moving ciphertext
between those buffers and the transport does. So every call into OpenSSL is atomic for the tasks of
a trio program, and two things are left to keep in order:
- Ciphertext must reach the transport in the order in which it was made. Whoever takes bytes out of
  the outgoing buffer holds `_transport_lock` until the transport has them.
- One task may send while another receives, as for every trio stream. Two senders or two receivers
  are a mistake in the caller and get `trio.BusyResourceError`.
A receiver does not send: what receiving makes OpenSSL want to say (the answer to a key update) goes
out before the next data, which is all that RFC 8446 (4.6.3) asks. Hence a peer that never reads
cannot stop us from reading. Only an alert is sent from there, and for that at most a second.

How a stream ends:
- `send_eof` sends close_notify and goes on receiving; received close_notify is `b""` for ever.
- A transport that ends without close_notify is `ConnectionCut` (also a `trio.BrokenResourceError`),
  never a clean end: what came before it may be incomplete.
- `aclose` sends close_notify and the end of the transport's stream, then reads away what the peer
  still sends, for at most a second, so that the kernel does not answer it with a reset that would
  overtake our last words. Cancelled, or while another task is sending, or after a send was cut
  short, it says nothing and just closes: then the peer sees a cut, and rightly so.
- A handshake that fails tells the peer why by an alert (in the same manner, so that it arrives)
  and closes the transport. With TLS 1.3 a client learns only from its first `receive_some` that
  the server refused its certificate: `HandshakeFailed` comes from there, too.

Never: renegotiation, resumption, early data, a secret in a message.
"""

from __future__ import annotations

import contextlib

import trio
from cryptography import x509
from OpenSSL import SSL

from tunnel.errors import ConnectionCut, HandshakeFailed, TunnelError
from tunnel.tls import ClientContext, Negotiated, ServerContext, failure_reason

__all__ = ["MAX_BYTES_PER_KEY", "Negotiated", "StreamCut", "TLSStream"]

# RFC 8446, 5.5: one AES-GCM key may protect 2^24.5 full records. There is no public call that
# changes the key, so a connection ends before 2^24 of them, in either direction.
MAX_BYTES_PER_KEY = 2**24 * 2**14
# What a record costs beside its text: the content type, the padding to whole AES blocks, the length
# block and the block that masks the tag.
RECORD_COST_BYTES = 48
RECORD_BYTES = 16 * 1024  # RFC 8446, 5.1
SEND_BYTES = 8 * RECORD_BYTES  # encrypted at a time; bounds what waits in the outgoing buffer
FLUSH_BYTES = SEND_BYTES + RECORD_BYTES  # room for what encryption adds to SEND_BYTES
RECEIVE_BYTES = 128 * 1024
LINGER_SECONDS = 1.0


class StreamCut(ConnectionCut, trio.BrokenResourceError):
    """A cut, for those who look for `ConnectionCut` and for those who expect what trio raises."""


class TLSStream(trio.abc.HalfCloseableStream):
    """One side of a TLS connection over `transport`, which it owns.

    The context says which side it is. `server_name` (a DNS name or an address) is what a client
    demands of the server's certificate; a server has none. Call `do_handshake` first.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ServerContext | ClientContext,
        *,
        server_name: str | None = None,
        max_bytes_per_key: int = MAX_BYTES_PER_KEY,
    ) -> None:
        self.transport = transport
        self._context = context
        self._server_name = server_name
        self._connection = context.connection(server_name)
        self._negotiated: Negotiated | None = None
        self._sending = _OneTask("sending")
        self._receiving = _OneTask("receiving")
        self._transport_lock = trio.Lock()
        self._max_bytes_per_key = max_bytes_per_key
        self._sent_cost = 0
        self._received_cost = 0
        self._heard_data = False
        self._drained = False  # the library has said that it needs more ciphertext
        self._peer_ended = False  # close_notify came
        self._receive_failure: TunnelError | None = None
        self._sent_eof = False  # close_notify is in the outgoing buffer, or further
        self._torn = False  # a send stopped midway (the peer may have half a record), or TLS failed
        self._closed = False

    @property
    def negotiated(self) -> Negotiated:
        """What both sides agreed on. Raises: RuntimeError before the handshake."""
        if self._negotiated is None:
            raise RuntimeError("do_handshake() comes first")
        return self._negotiated

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The peer's certificate, verified; None when a client showed none.

        Raises: HandshakeFailed when it cannot be parsed.
        """
        try:
            return self._connection.get_peer_certificate(as_cryptography=True)
        except ValueError:
            raise HandshakeFailed("the peer's certificate cannot be read") from None

    def exporter(self, label: str, length: int) -> bytes:
        """Keying material that both ends of this connection share and no one else (RFC 8446, 7.5).

        With the label `EXPORTER-Channel-Binding` and 32 bytes it is RFC 9266's channel binding.
        """
        if self._negotiated is None:
            raise RuntimeError("do_handshake() comes first")
        return self._connection.export_keying_material(label.encode("ascii"), length, b"")

    async def do_handshake(self) -> None:
        """Shake hands and check the peer. The caller brings the time limit.

        Raises: HandshakeFailed; the transport is closed then. When cancelled, close the stream.
        """
        if self._negotiated is not None or self._closed:
            raise RuntimeError("the handshake is over")
        with self._sending, self._receiving:
            try:
                await self._shake_hands()
                self._negotiated = self._context.check(self._connection, self._server_name)
                return
            except HandshakeFailed as error:
                failure = HandshakeFailed(str(error))
            except SSL.Error as error:
                failure = HandshakeFailed(failure_reason(self._connection, error))
            except (trio.BrokenResourceError, ConnectionCut):
                failure = HandshakeFailed("the peer closed the connection during the handshake")
                self._torn = True
        self._closed = True
        await self._finish(say_goodbye=not self._torn, drain=True)
        raise failure

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`. Raises: StreamCut, also when this connection has carried its share.

        When cancelled, it is unknown how much went out; the stream can only be closed then.
        """
        with self._sending:
            self._check_can_send()
            if not data:
                await trio.lowlevel.checkpoint()
                return
            try:
                with memoryview(data) as whole, whole.cast("B") as view:
                    for start in range(0, len(view), SEND_BYTES):
                        with view[start : start + SEND_BYTES] as piece:
                            self._encrypt(piece)
                        await self._flush()
            except BaseException:
                self._torn = True
                raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport says so."""
        with self._sending:
            self._check_can_send()
            await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send close_notify; receiving goes on. Raises: StreamCut."""
        with self._sending:
            if self._sent_eof and not self._closed:
                await trio.lowlevel.checkpoint()
                return
            self._check_can_send()
            try:
                self._say_goodbye()
                await self._flush()
            except BaseException:
                self._torn = True
                raise

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Up to `max_bytes` (by default as many as are there, at most 128 KiB); `b""` at the end.

        Raises: StreamCut when the peer's stream did not end by close_notify; HandshakeFailed when
        it refused us. Cancelled, it has lost nothing.
        """
        limit = RECEIVE_BYTES if max_bytes is None else max_bytes
        if limit < 1:
            raise ValueError("max_bytes is at least 1")
        with self._receiving:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._negotiated is None:
                raise RuntimeError("do_handshake() comes first")
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while True:
                data = await self._decrypt(limit)
                if data is not None:
                    if not waited:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                await self._receive_ciphertext()
                waited = True

    async def aclose(self) -> None:
        """Close, cleanly if that can be said in truth; see the top of this file."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        clean = not (self._torn or self._sending.busy or self._negotiated is None)
        # A peer that said close_notify sends no more; one that is being read by another task, or
        # that failed, cannot be read here.
        drain = clean and not (
            self._peer_ended or self._receiving.busy or self._receive_failure is not None
        )
        await self._finish(say_goodbye=clean, drain=drain)

    # The rest is called with the flags that the public calls above took.

    async def _shake_hands(self) -> None:
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                data = await self.transport.receive_some(RECEIVE_BYTES)
                if data:
                    self._connection.bio_write(data)
                else:
                    self._connection.bio_shutdown()
            else:
                await self._flush()
                return

    def _check_can_send(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._sent_eof:
            raise trio.ClosedResourceError("the end of this stream was sent")
        if self._negotiated is None:
            raise RuntimeError("do_handshake() comes first")
        if self._torn:
            raise StreamCut("this connection has failed before")

    def _encrypt(self, piece: memoryview) -> None:
        records = -(-len(piece) // RECORD_BYTES)
        self._sent_cost += len(piece) + records * RECORD_COST_BYTES
        if self._sent_cost > self._max_bytes_per_key:
            raise StreamCut("this connection has sent as much as its key may protect")
        try:
            self._connection.sendall(piece)
        except SSL.Error as error:
            raise StreamCut(failure_reason(self._connection, error)) from None

    def _say_goodbye(self) -> None:
        if not self._sent_eof:
            self._sent_eof = True
            self._connection.shutdown()

    async def _flush(self) -> None:
        """Hand everything in the outgoing buffer to the transport. May not be a checkpoint."""
        try:
            self._transport_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._transport_lock.acquire()
        try:
            while data := self._take_ciphertext():
                await self.transport.send_all(data)
                # Less than was asked for: that was all, and asking again would cost an exception
                # for every message. Only an alert that came meanwhile is sent by nobody else.
                if len(data) < FLUSH_BYTES and not self._torn:
                    break
        except trio.BrokenResourceError as error:
            if isinstance(error, ConnectionCut):
                raise
            raise StreamCut("the connection was cut") from None
        finally:
            self._transport_lock.release()

    def _take_ciphertext(self) -> bytes:
        try:
            return self._connection.bio_read(FLUSH_BYTES)
        except SSL.WantReadError:
            return b""

    async def _receive_ciphertext(self) -> None:
        try:
            data = await self.transport.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            self._receive_failure = StreamCut("the connection was cut")
            raise self._receive_failure from None
        self._drained = False
        if data:
            self._connection.bio_write(data)
        else:
            self._connection.bio_shutdown()

    async def _decrypt(self, limit: int) -> bytes | None:
        """What is readable without waiting; `b""` at the end; None when more must arrive."""
        pieces: list[bytes] = []
        size = 0
        # Asking again what it has just said would cost an exception for every message.
        while (
            size < limit
            and not self._drained
            and not self._peer_ended
            and self._receive_failure is None
        ):
            if self._received_cost >= self._max_bytes_per_key:
                self._receive_failure = StreamCut(
                    "this connection has received as much as its key may protect"
                )
                break
            try:
                # The library allocates what it is asked for: one record's worth.
                piece = self._connection.recv(min(RECORD_BYTES, limit - size))
            except SSL.WantReadError:
                self._drained = True
            except SSL.ZeroReturnError:
                self._peer_ended = True
            except SSL.Error as error:
                self._receive_failure = self._explain(error)
            else:
                pieces.append(piece)
                size += len(piece)
                self._received_cost += len(piece) + RECORD_COST_BYTES
        if size:
            self._heard_data = True
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._receive_failure is not None:
            await self._send_alert()
            raise self._receive_failure
        return b"" if self._peer_ended else None

    def _explain(self, error: SSL.Error) -> TunnelError:
        self._torn = True  # after an error the library sends no more than its alert
        if isinstance(error, SSL.SysCallError):
            return StreamCut("the connection ended without close_notify")
        reason = failure_reason(self._connection, error)
        if not self._heard_data and reason.startswith("the peer refused"):
            return HandshakeFailed(reason)
        return StreamCut(reason)

    async def _send_alert(self) -> None:
        if not (self._sending.busy or self._closed):
            with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(*_GONE):
                await self._flush()

    async def _finish(self, *, say_goodbye: bool, drain: bool) -> None:
        """Close the transport, whatever happens before that."""
        try:
            with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(*_GONE):
                if say_goodbye:
                    if self._negotiated is not None:
                        self._say_goodbye()
                    await self._flush()
                if drain:
                    if isinstance(self.transport, trio.abc.HalfCloseableStream):
                        await self.transport.send_eof()
                    while await self.transport.receive_some(RECEIVE_BYTES):
                        pass
        finally:
            await self.transport.aclose()


# What a transport raises when there is nobody left to speak to.
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, TunnelError)


class _OneTask:
    """Lets one task in at a time, and the next know that it should not be here."""

    def __init__(self, what: str) -> None:
        self.busy = False
        self._what = what

    def __enter__(self) -> None:
        if self.busy:
            raise trio.BusyResourceError(f"another task is already {self._what} on this stream")
        self.busy = True

    def __exit__(self, *_: object) -> None:
        self.busy = False
