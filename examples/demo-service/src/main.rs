//! A small vehicle service for demos, tests and measurements: it logs what it does, one line each, and ends in an orderly way.
//!
//! ```text
//! demo-service NAME [--exit CODE] [--after MILLISECONDS] [--env] [--ignore-term] [--lines N]
//! ```
//! The first line holds the time at which `main` began, in nanoseconds of CLOCK_REALTIME since the epoch and of CLOCK_MONOTONIC since boot, so that a
//! measurement can tell when the process' first instruction ran.
//!
//! Built statically, since its image holds nothing else.

use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};

#[derive(Debug, Default)]
struct Options {
    name: String,
    exit: Option<u8>,
    after: Option<Duration>,
    show_env: bool,
    ignore_term: bool,
    lines: u64,
}

fn main() -> ExitCode {
    let began = (nanoseconds(ClockId::CLOCK_REALTIME), nanoseconds(ClockId::CLOCK_MONOTONIC));
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("demo-service: {message}");
            return ExitCode::from(2);
        }
    };
    let name = &options.name;
    log(&format!("{name}: started pid={} realtime_ns={} monotonic_ns={}", std::process::id(), began.0, began.1));
    if options.show_env {
        for (key, value) in std::env::vars() {
            log(&format!("{name}: env {key}={value}"));
        }
    }
    for line in 0..options.lines {
        log(&format!("{name}: line {line}"));
    }
    let (sender, receiver) = mpsc::channel();
    let mut waited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        waited.add(signal);
    }
    if waited.thread_block().is_err() {
        eprintln!("{name}: blocking SIGTERM failed");
        return ExitCode::from(2);
    }
    std::thread::spawn(move || {
        while let Ok(signal) = waited.wait() {
            if sender.send(signal).is_err() {
                break;
            }
        }
    });
    loop {
        let received = match options.after {
            Some(after) => receiver.recv_timeout(after).ok(),
            None => receiver.recv().ok(),
        };
        match received {
            Some(signal) if options.ignore_term => log(&format!("{name}: ignoring {signal}")),
            Some(signal) => {
                log(&format!("{name}: stopping on {signal}"));
                return ExitCode::SUCCESS;
            }
            None => {
                let code = options.exit.unwrap_or(0);
                log(&format!("{name}: exiting with {code}"));
                return ExitCode::from(code);
            }
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { name: "demo".to_owned(), ..Options::default() };
    let mut named = false;
    while let Some(argument) = arguments.next() {
        let mut number = |what: &str| {
            let given = arguments.next().unwrap_or_default();
            given.parse::<u64>().map_err(|_| format!("{what}: expected a whole number, given {given:?}"))
        };
        match argument.as_str() {
            "--exit" => {
                let code = number("--exit")?;
                options.exit = Some(u8::try_from(code).map_err(|_| format!("--exit: {code} is above 255"))?);
                options.after = options.after.or(Some(Duration::ZERO));
            }
            "--after" => options.after = Some(Duration::from_millis(number("--after")?)),
            "--lines" => options.lines = number("--lines")?,
            "--env" => options.show_env = true,
            "--ignore-term" => options.ignore_term = true,
            other if other.starts_with("--") || named => return Err(format!("unexpected argument {other:?}")),
            name => {
                name.clone_into(&mut options.name);
                named = true;
            }
        }
    }
    Ok(options)
}

fn nanoseconds(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
}

/// One line, written at once, so that lines of several processes don't mix.
fn log(line: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    drop(written);
}
