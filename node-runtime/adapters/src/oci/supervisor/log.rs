//! Container logs: what a container writes to stdout and stderr, line by line, in the format that CRI runtimes write.
//!
//! `2026-11-24T02:37:42.123456789Z stdout F a line`. A line longer than [`MAX_LINE`] is cut into parts with the tag `P` but for the
//! last. A file that would grow beyond its limit becomes `<name>.1`, the former `.1` becomes `.2`, and so on.
//!
//! A full disk must not stop a container: lines that can't be written are counted, and the count is logged once there is room again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use pullpiri_node_core::runtime::Timestamp;
use pullpiri_node_host::clock;

use crate::oci::wire::LogTarget;

/// As containerd and CRI-O cut lines.
const MAX_LINE: usize = 16 * 1024;
/// At a container's death at most this much is read from its pipes: they hold 64 KiB, and only a process outside the container could
/// write more.
const MAX_DRAIN: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The reading end of a container's stdout or stderr, non-blocking.
pub(super) struct Stream {
    source: Source,
    fd: OwnedFd,
    /// The line that has begun.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamState {
    Open,
    Ended,
}

impl Stream {
    pub(super) fn new(source: Source, fd: OwnedFd) -> Self {
        Self { source, fd, partial: Vec::new() }
    }

    /// Moves what is there, at most one buffer, to the log.
    pub(super) fn pump(&mut self, log: &mut Log) -> StreamState {
        let mut buffer = [0_u8; 8 * 1024];
        match nix::unistd::read(&self.fd, &mut buffer) {
            Ok(0) => {
                self.finish(log);
                StreamState::Ended
            }
            Ok(read) => {
                self.take(buffer.get(..read).unwrap_or_default(), log);
                StreamState::Open
            }
            Err(Errno::EAGAIN | Errno::EINTR) => StreamState::Open,
            Err(_) => {
                self.finish(log);
                StreamState::Ended
            }
        }
    }

    /// Moves all that is left, at the container's death.
    pub(super) fn drain(mut self, log: &mut Log) {
        let mut buffer = [0_u8; 8 * 1024];
        let mut moved = 0;
        while moved < MAX_DRAIN {
            match nix::unistd::read(&self.fd, &mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    moved += read;
                    self.take(buffer.get(..read).unwrap_or_default(), log);
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.finish(log);
    }

    fn take(&mut self, mut bytes: &[u8], log: &mut Log) {
        let now = clock::now();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            self.append(line, now, log);
            log.line(now, self.source, 'F', &self.partial);
            self.partial.clear();
        }
        self.append(bytes, now, log);
        if self.partial.is_empty() {
            // An idle container costs no memory.
            self.partial = Vec::new();
        }
        log.flush();
    }

    fn append(&mut self, mut bytes: &[u8], now: Timestamp, log: &mut Log) {
        while self.partial.len() + bytes.len() > MAX_LINE {
            let (part, rest) = bytes.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(part);
            bytes = rest;
            log.line(now, self.source, 'P', &self.partial);
            self.partial.clear();
        }
        self.partial.extend_from_slice(bytes);
    }

    fn finish(&mut self, log: &mut Log) {
        if !self.partial.is_empty() {
            log.line(clock::now(), self.source, 'F', &self.partial);
            self.partial = Vec::new();
        }
        log.flush();
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A log file with its rotation.
pub(super) struct Log {
    target: LogTarget,
    file: Option<File>,
    /// Of the file, with what is in `pending`.
    size: u64,
    pending: Vec<u8>,
    pending_lines: u64,
    lost: u64,
}

impl Log {
    /// Opens the file for appending; a part of a line that a dead supervisor left is ended first.
    pub(super) fn open(target: LogTarget) -> io::Result<Self> {
        let mut log = Self { target, file: None, size: 0, pending: Vec::new(), pending_lines: 0, lost: 0 };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).read(true).mode(0o640).open(&self.target.path)?;
        self.size = file.metadata()?.len();
        if self.size > 0 {
            let mut last = [0];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, self.size - 1)?;
            if last != [b'\n'] {
                (&file).write_all(b"\n")?;
                self.size += 1;
            }
        }
        self.file = Some(file);
        Ok(())
    }

    fn line(&mut self, now: Timestamp, source: Source, tag: char, text: &[u8]) {
        let mut head = rfc3339(now);
        head.push(' ');
        head.push_str(source.as_str());
        head.push(' ');
        head.push(tag);
        head.push(' ');
        let length = u64::try_from(head.len() + text.len() + 1).unwrap_or(u64::MAX);
        if self.target.max_bytes > 0 && self.size > 0 && self.size.saturating_add(length) > self.target.max_bytes {
            self.flush();
            self.rotate();
        }
        self.pending.extend_from_slice(head.as_bytes());
        self.pending.extend_from_slice(text);
        self.pending.push(b'\n');
        self.pending_lines += 1;
        self.size = self.size.saturating_add(length);
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let result = match &mut self.file {
            Some(file) => write_or_undo(file, &mut self.lost, &self.pending),
            None => Err(io::Error::other("no log file")),
        };
        if result.is_err() {
            self.lost = self.lost.saturating_add(self.pending_lines);
            // The file's end is wherever the failed write left it.
            let _ = self.reopen();
        }
        self.pending = Vec::new();
        self.pending_lines = 0;
    }

    fn rotate(&mut self) {
        let path = |n: u32| -> PathBuf {
            if n == 0 {
                return self.target.path.clone();
            }
            let mut name = self.target.path.clone().into_os_string();
            name.push(format!(".{n}"));
            name.into()
        };
        let oldest = self.target.max_files.saturating_sub(1);
        // Whatever fails here, the container goes on; the file then grows beyond its limit.
        if oldest == 0 {
            if let Some(file) = &self.file {
                let _ = file.set_len(0);
            }
        } else {
            for n in (0..oldest).rev() {
                let _ = std::fs::rename(path(n), path(n + 1));
            }
        }
        let _ = self.reopen();
    }
}

/// Appends, first saying how many lines were lost if any were.
fn write_or_undo(file: &mut File, lost: &mut u64, bytes: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let mut write = || {
        if *lost > 0 {
            let note = format!("{} stderr F pullpiri: {lost} lines could not be logged\n", rfc3339(clock::now()));
            file.write_all(note.as_bytes())?;
        }
        file.write_all(bytes)
    };
    match write() {
        Ok(()) => {
            *lost = 0;
            Ok(())
        }
        Err(e) => {
            // No half line stays behind.
            let _ = file.set_len(before);
            Err(e)
        }
    }
}

/// `2026-11-24T02:37:42.123456789Z`. The calendar from days since the epoch is the era arithmetic of the proleptic Gregorian calendar:
/// 400 years have 146097 days, counted from 1 March of year 0.
fn rfc3339(time: Timestamp) -> String {
    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;
    let seconds = time.0.div_euclid(SECOND);
    let nanos = time.0.rem_euclid(SECOND);
    let (days, clock) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;
    use pullpiri_node_host::socket::set_nonblocking;

    use super::*;

    fn target(dir: &std::path::Path, max_bytes: u64, max_files: u32) -> LogTarget {
        LogTarget { path: dir.join("c.log"), max_bytes, max_files }
    }

    /// Writes chunks through a pipe, pumping after each, and returns the log without its times.
    fn logged(chunks: &[&[u8]], target: LogTarget) -> Vec<String> {
        let path = target.path.clone();
        let mut log = Log::open(target).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        set_nonblocking(&reader).unwrap();
        let mut stream = Stream::new(Source::Stdout, reader);
        for chunk in chunks {
            writer.write_all(chunk).unwrap();
            for _ in 0..=chunk.len() / 8192 {
                assert_eq!(stream.pump(&mut log), StreamState::Open);
            }
        }
        drop(writer);
        stream.drain(&mut log);
        strip(&std::fs::read_to_string(path).unwrap())
    }

    fn strip(text: &str) -> Vec<String> {
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_whatever_the_chunks() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            logged(&[b"one\ntw", b"o\n\nthr", b"ee"], target(dir.path(), 0, 1)),
            ["stdout F one", "stdout F two", "stdout F ", "stdout F three"]
        );
    }

    #[test]
    fn long_lines_are_cut_into_parts() {
        let dir = tempfile::tempdir().unwrap();
        let long = vec![b'x'; MAX_LINE + 5];
        let lines = logged(&[&long, b"\nend\n"], target(dir.path(), 0, 1));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], format!("stdout P {}", "x".repeat(MAX_LINE)));
        assert_eq!(lines[1], "stdout F xxxxx");
        assert_eq!(lines[2], "stdout F end");
    }

    #[test]
    fn files_rotate_by_size_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let one_line = rfc3339(Timestamp(0)).len() + " stdout F line 0\n".len();
        let chunks: Vec<String> = (0..7).map(|i| format!("line {i}\n")).collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(String::as_bytes).collect();
        let limit = u64::try_from(one_line * 2).unwrap();
        let current = logged(&chunks, target(dir.path(), limit, 3));
        assert_eq!(current, ["stdout F line 6"]);
        let read = |n: &str| strip(&std::fs::read_to_string(dir.path().join(n)).unwrap());
        assert_eq!(read("c.log.1"), ["stdout F line 4", "stdout F line 5"]);
        assert_eq!(read("c.log.2"), ["stdout F line 2", "stdout F line 3"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_single_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(logged(&[b"one\n", b"two\n"], target(dir.path(), 50, 1)), ["stdout F two"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_is_appended_to_and_a_torn_line_ended() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c.log"), "t stdout F torn").unwrap();
        assert_eq!(logged(&[b"next\n"], target(dir.path(), 0, 1)), ["stdout F torn", "stdout F next"]);
    }

    #[test]
    fn lost_lines_are_counted_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path(), 0, 1);
        let path = target.path.clone();
        let mut log = Log::open(target).unwrap();
        // A descriptor that can't be written stands for a full disk.
        log.file = Some(File::open("/dev/full").unwrap());
        log.line(Timestamp(0), Source::Stdout, 'F', b"gone");
        log.flush();
        assert_eq!(log.lost, 1);
        log.line(Timestamp(0), Source::Stdout, 'F', b"kept");
        log.flush();
        let lines = strip(&std::fs::read_to_string(path).unwrap());
        assert_eq!(lines, ["stderr F pullpiri: 1 lines could not be logged", "stdout F kept"]);
    }

    #[test]
    fn times_at_the_edges() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_487_862_123_456_789, "2026-11-24T02:37:42.123456789Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn times_agree_with_a_calendar_library(nanos in any::<i64>()) {
            let theirs = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap();
            prop_assert_eq!(rfc3339(Timestamp(nanos)), format!("{theirs:.9}"));
        }

        #[test]
        fn no_byte_is_lost(text in "[a-z\n]{0,400}", cuts in prop::collection::vec(1_usize..40, 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut chunks: Vec<&[u8]> = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                if cut < rest.len() {
                    let (head, tail) = rest.split_at(cut);
                    chunks.push(head);
                    rest = tail;
                }
            }
            if !rest.is_empty() {
                chunks.push(rest);
            }
            let got: Vec<String> = logged(&chunks, target(dir.path(), 0, 1))
                .iter().map(|l| l.strip_prefix("stdout F ").unwrap().to_owned()).collect();
            prop_assert_eq!(got, text.lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }
}
