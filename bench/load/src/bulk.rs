//! Bytes without a protocol, one way: messages of a given length, each confirmed with one byte.

use crate::arguments::Load;
use crate::samples::Samples;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Bytes written and read at once.
const CHUNK: usize = 256 * 1024;

/// Longest wait for any byte.
const STALL: Duration = Duration::from_secs(5);

/// Takes messages forever, a connection per thread.
pub fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("{{\"listen\":\"{}\"}}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || {
            // The peer closed or broke the connection: its own affair.
            let _ = take_messages(stream);
        });
    }
}

fn take_messages(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut missing = u64::from_be_bytes(length);
        while missing > 0 {
            let most = usize::try_from(missing).map_or(CHUNK, |missing| missing.min(CHUNK));
            let count = stream.read(&mut chunk[..most])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            missing -= count as u64;
        }
        stream.write_all(&[1])?;
    }
}

/// Sends message after message until the budget is used up.
pub fn run(load: &Load) -> io::Result<Samples> {
    let mut stream = TcpStream::connect(load.target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let chunk = vec![b'x'; CHUNK];
    let mut samples = Samples::default();
    let begin = Instant::now();
    let mut budget = load.budget(begin);
    loop {
        let start = Instant::now();
        if !budget.take(start) {
            break;
        }
        stream.write_all(&(load.request_bytes as u64).to_be_bytes())?;
        let mut missing = load.request_bytes;
        while missing > 0 {
            missing -= stream.write(&chunk[..missing.min(CHUNK)])?;
        }
        stream.read_exact(&mut [0])?;
        samples.add(start.elapsed());
    }
    samples.elapsed = begin.elapsed();
    Ok(samples)
}
