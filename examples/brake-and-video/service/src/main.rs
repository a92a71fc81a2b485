//! The services of the example brake-and-video, one binary for all: it knows nothing of Pullpiri.
//!
//! ```text
//! brake-and-video brake  [--period 10ms] [--work 2ms] [--overrun 30ms] [--port 7001]
//! brake-and-video sensor --to HOST:PORT [--period 10ms]
//! brake-and-video video  --to HOST:PORT [--flows 4]
//! brake-and-video screen [--port 7002]
//! brake-and-video hog    [--threads 2]
//! ```
//! * `brake` computes for `--work` once in every `--period` in a thread called `brake-loop`, and answers sensor readings from another
//!   thread. SIGUSR1 makes its next job last `--overrun`.
//! * `sensor` sends a reading in every period and measures how long the answer takes.
//! * `video` sends as much as the network takes; `screen` receives it.
//! * `hog` computes without end.
//!
//! Each prints one line a second. Hosts are addresses, or names from /etc/hosts: the binary is static, so the C library's resolver isn't there.

mod network;
mod options;
mod pace;
mod roles;

use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = options::parse(std::env::args().skip(1)).and_then(|role| roles::run(&role));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("brake-and-video: {message}");
            ExitCode::from(2)
        }
    }
}
