//! What a benchmark needs on both ends of a proxy: a load generator and an application.
//!
//! Every command prints one JSON object on standard output and keeps to one core when told to from
//! outside. HTTP/1.1 is a small codec on epoll, because a generator must cost less than what it
//! measures; gRPC uses the `h2` crate.

mod arguments;
mod bulk;
mod closed;
mod grpc;
mod hold;
mod http1;
mod open;
mod samples;
mod tls;
mod upstream;
mod wire;

use arguments::Arguments;
use samples::Samples;
use std::process::ExitCode;

const USAGE: &str = "usage: tulle-bench-load COMMAND [--OPTION VALUE]...

applications, each with --listen ADDR:
  upstream       answers HTTP/1.1; --fresh true: one request a connection; TLS as below
  grpc-upstream  answers gRPC
  bulk-upstream  takes messages of any length and confirms each

loads, each with --target ADDR --host NAME --connections N and --seconds S or --requests N:
  closed         next request when answered; --fresh true: each on a connection of its own
  open           --rate R: by schedule
  hold           one request a connection, then idle until stdin closes
  grpc           --streams N: unary calls
  bulk           --request-bytes N: messages of N bytes over one connection

closed, open and hold: --request-bytes N, --response-bytes N; --chain FILE --key FILE: mutual TLS,
--resume true: sessions are resumed, and counted";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (command, arguments) = Arguments::read(std::env::args().skip(1)).ok_or(USAGE)?;
    let outcome = match command.as_str() {
        "upstream" => upstream::serve(
            arguments.address("listen")?,
            arguments.flag("fresh")?,
            arguments.identity()?.as_ref(),
        ),
        "grpc-upstream" => grpc::serve(arguments.address("listen")?),
        "bulk-upstream" => bulk::serve(arguments.address("listen")?),
        "hold" => hold::run(&arguments.load()?),
        "closed" => closed::run(&arguments.load()?).map(Samples::print),
        "open" => open::run(&arguments.load()?, arguments.number("rate")?).map(Samples::print),
        "grpc" => grpc::load(&arguments.load()?, arguments.number("streams")?).map(Samples::print),
        "bulk" => bulk::run(&arguments.load()?).map(Samples::print),
        _ => return Err(USAGE.into()),
    };
    outcome.map_err(|error| format!("{command}: {error}"))
}
