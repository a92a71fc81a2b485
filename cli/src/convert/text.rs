//! A file's text, of a size that manifests have: a path may be a device that never ends, or a disk image.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A thousand times what a vehicle's manifests have.
const MOST_MIB: u64 = 64;
const MOST: u64 = MOST_MIB << 20;

/// # Errors
/// As of [`std::fs::read_to_string`], and if it has more than [`MOST`] bytes.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let told = file.metadata()?.len();
    if told > MOST {
        return Err(io::Error::other(format!("it has {told} bytes; at most {MOST_MIB} MiB are read")));
    }
    let mut text = String::new();
    let mut bounded = file.take(MOST);
    bounded.read_to_string(&mut text)?;
    if bounded.into_inner().read(&mut [0])? > 0 {
        return Err(io::Error::other(format!("it has more than {MOST_MIB} MiB, which is all that is read")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_refused_with_its_size() {
        let endless = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(endless, "it has more than 64 MiB, which is all that is read");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MOST + 1).unwrap();
        assert_eq!(read(file.path()).unwrap_err().to_string(), "it has 67108865 bytes; at most 64 MiB are read");
        file.as_file().set_len(1).unwrap();
        assert_eq!(read(file.path()).unwrap(), "\0");
    }
}
