//! TCP without the waits of small packets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// TCP that acknowledges at once. The kernel falls back to delayed acknowledgements by itself, and the other side's small
/// packets then wait 40 ms each, so it is told again after each read.
pub struct Quick(TcpStream);

impl Quick {
    /// Without the option a login is slower and nothing else.
    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_quickack(true);
        Self(stream)
    }
}

impl AsyncRead for Quick {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.0).poll_read(cx, buf);
        if polled.is_ready() {
            // Speed only.
            let _ = self.0.set_quickack(true);
        }
        polled
    }
}

impl AsyncWrite for Quick {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
