//! What a benchmark needs on both ends of a proxy: a load generator and an application.
//!
//! Every command prints one JSON object on standard output and uses one thread, so that its core
//! can be chosen from outside. HTTP/1.1 is a small codec on epoll, because a generator must cost
//! less than what it measures; gRPC uses the `h2` crate.

mod arguments;
mod closed;
mod grpc;
mod hold;
mod http1;
mod open;
mod samples;
mod upstream;

use arguments::Arguments;
use std::process::ExitCode;

const USAGE: &str = "usage: tulle-bench-load COMMAND [--OPTION VALUE]...
  upstream       --listen ADDR                                           answers HTTP/1.1
  grpc-upstream  --listen ADDR                                           answers gRPC
  closed         --target ADDR --host NAME --connections N --seconds S   next request when answered
  open           --target ADDR --host NAME --connections N --seconds S --rate R   by schedule
  hold           --target ADDR --host NAME --connections N               idle until stdin closes
  grpc           --target ADDR --host NAME --connections N --streams N --seconds S";

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
        "upstream" => upstream::serve(arguments.address("listen")?),
        "grpc-upstream" => grpc::serve(arguments.address("listen")?),
        "closed" => closed::run(&arguments.load()?).map(|samples| samples.print()),
        "open" => {
            open::run(&arguments.load()?, arguments.number("rate")?).map(|samples| samples.print())
        }
        "hold" => hold::run(&arguments.load_without_time()?),
        "grpc" => grpc::load(&arguments.load()?, arguments.number("streams")?)
            .map(|samples| samples.print()),
        _ => return Err(USAGE.into()),
    };
    outcome.map_err(|error| format!("{command}: {error}"))
}
