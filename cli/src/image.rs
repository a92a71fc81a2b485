//! `pullpiri image`: the node's image store from the command line.

use std::path::{Path, PathBuf};

use pullpiri_node_adapters::images::{ImageStore, build};

use crate::args::ImageVerb;
use crate::control_plane::make_private;
use crate::fail::Failure;
use crate::out;

pub(crate) fn run(verb: &ImageVerb) -> Result<(), Failure> {
    match verb {
        ImageVerb::Load { archive, data_dir } => {
            make_private(data_dir)?;
            let store = ImageStore::open(data_dir.join("images"))?;
            for image in store.load(archive)? {
                for reference in &image.references {
                    out::line(&format!("loaded {reference} ({})", image.id))?;
                }
            }
            Ok(())
        }
        ImageVerb::Build { reference, files, labels, user, entrypoint, output } => {
            let files = files.iter().map(|pair| file(pair)).collect::<Result<Vec<_>, _>>()?;
            let labels = labels.iter().map(|pair| label(pair)).collect::<Result<_, _>>()?;
            let options = build::Options { labels, user: user.clone(), ..build::Options::default() };
            build::archive_with(output, reference, &files, entrypoint, &options)?;
            Ok(())
        }
    }
}

fn label(pair: &str) -> Result<(String, String), Failure> {
    match pair.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("--label {pair:?}: expected NAME=VALUE"))),
    }
}

/// `HOST:IMAGE`, with the permission bits that the file has here.
fn file(pair: &str) -> Result<(PathBuf, PathBuf, u32), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let expected = || Failure::new(format!("--file {pair:?}: expected HOST_PATH:IMAGE_PATH, the second absolute"));
    let (host, image) = pair.split_once(':').ok_or_else(expected)?;
    if host.is_empty() || !image.starts_with('/') {
        return Err(expected());
    }
    let metadata = std::fs::metadata(host).map_err(|error| Failure::from_error(format!("--file {pair:?}"), &error))?;
    Ok((Path::new(host).to_path_buf(), Path::new(image).to_path_buf(), metadata.permissions().mode() & 0o7777))
}
