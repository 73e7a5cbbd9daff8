//! Unary gRPC on both ends: a call of 64 bytes, an answer of 12 bytes and its trailers.

use crate::arguments::{Budget, Load};
use crate::samples::Samples;
use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};

/// A gRPC message: not compressed, its length, its bytes.
fn message(length: u8) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + usize::from(length));
    frame.put_u8(0);
    frame.put_u32(length.into());
    frame.put_bytes(b'x', length.into());
    frame.freeze()
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
}

/// Answers every call, forever.
pub fn serve(listen: SocketAddr) -> io::Result<()> {
    runtime()?.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        println!("{{\"listen\":\"{}\"}}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // The peer closed or broke the connection: its own affair.
                let _ = serve_connection(stream).await;
            });
        }
    })
}

async fn serve_connection(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(async move {
            // A call that was reset has no one left to tell.
            let _ = serve_call(request.into_body(), respond).await;
        });
    }
    Ok(())
}

async fn serve_call(
    mut body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    read_body(&mut body).await?;
    let mut head = Response::new(());
    head.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let mut answer = respond.send_response(head, false)?;
    answer.send_data(message(12), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(trailers)
}

async fn read_body(body: &mut RecvStream) -> Result<(), h2::Error> {
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}

/// Keeps `streams` calls in flight on each connection until the budget is used up.
pub fn load(load: &Load, streams: usize) -> io::Result<Samples> {
    runtime()?.block_on(async {
        let begin = Instant::now();
        let budget = Arc::new(Mutex::new(load.budget(begin)));
        let mut callers = Vec::new();
        for _ in 0..load.connections {
            let client = connect(load.target).await.map_err(io::Error::other)?;
            for _ in 0..streams {
                let (client, host) = (client.clone(), load.host.clone());
                callers.push(tokio::spawn(call_until(client, host, budget.clone())));
            }
        }
        let mut samples = Samples::default();
        for caller in callers {
            samples.join(caller.await.map_err(io::Error::other)?);
        }
        samples.elapsed = begin.elapsed();
        Ok(samples)
    })
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Bytes>, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move {
        // Calls on a broken connection fail by themselves and are counted there.
        let _ = connection.await;
    });
    Ok(client)
}

async fn call_until(
    mut client: SendRequest<Bytes>,
    host: String,
    budget: Arc<Mutex<Budget>>,
) -> Samples {
    let mut samples = Samples::default();
    loop {
        let start = Instant::now();
        let allowed = budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(start);
        if !allowed {
            return samples;
        }
        match call(&mut client, &host).await {
            Ok(true) => samples.add(start.elapsed()),
            Ok(false) => samples.errors += 1,
            Err(_) => {
                // The connection is gone, and with it this caller.
                samples.errors += 1;
                return samples;
            }
        }
    }
}

/// Makes one call; `true` when it ends with grpc-status 0.
async fn call(client: &mut SendRequest<Bytes>, host: &str) -> Result<bool, h2::Error> {
    std::future::poll_fn(|context| client.poll_ready(context)).await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{host}/bench.Echo/Say"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "tulle-bench/1")
        .header("grpc-accept-encoding", "identity")
        .header("x-request-id", "7b1b2a6c-90b4-4a7e-9c3a-0d0c8f6f1f11")
        .body(())
        .expect("the parts are valid");
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(message(64), true)?;
    let response = response.await?;
    let status_in_head = is_ok(response.headers());
    let mut answer = response.into_body();
    read_body(&mut answer).await?;
    let trailers = answer.trailers().await?;
    Ok(status_in_head || trailers.as_ref().is_some_and(is_ok))
}

fn is_ok(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| status == "0")
}
