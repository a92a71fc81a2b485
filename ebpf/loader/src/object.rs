//! The compiled BPF programs, embedded in the binary.
//!
//! build.rs compiles every `ebpf/programs/*.bpf.c` to a static of the same name in capitals (`monitor.bpf.c` → [`MONITOR`]). A build without clang has
//! empty ones; [`bytes`] tells that apart from a kernel that refuses a program.

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// A program that isn't in this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("loading the BPF program {program}: this binary was built without clang or libbpf's headers")]
pub struct BuiltWithoutClang {
    /// The program's name, as in `programs/<name>.bpf.c`.
    pub program: &'static str,
}

/// The object's bytes, if this binary has it.
///
/// # Errors
/// When it was built without clang (or libbpf's headers).
pub fn bytes(program: &'static str, object: &'static [u8]) -> Result<&'static [u8], BuiltWithoutClang> {
    if object.is_empty() { Err(BuiltWithoutClang { program }) } else { Ok(object) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_says_what_was_missing() {
        let error = bytes("monitor", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "loading the BPF program monitor: this binary was built without clang or libbpf's headers"
        );
    }

    #[test]
    fn an_object_is_an_aligned_elf_file() {
        for (program, object) in [("monitor", MONITOR), ("pharos", PHAROS)] {
            match bytes(program, object) {
                Ok(bytes) => assert_eq!(&bytes[..4], b"\x7fELF"),
                Err(error) => println!("skipped: {error}"),
            }
        }
    }
}
