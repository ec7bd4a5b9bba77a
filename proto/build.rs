//! Compiles the contracts of this folder to Rust, without `protoc`: each to a folder of its own, because they share a
//! package and lie in different modules.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    media(&folder(&out, "media")?)?;
    control(&folder(&out, "control")?)
}

fn media(out: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile(["proto/trunkline/v1/media.proto"], ["proto"])?;
    prost_build::Config::new()
        .out_dir(out)
        .btree_map(["."])
        .compile_fds(files)?;
    Ok(())
}

fn control(out: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = protox::compile(["proto/trunkline/v1/control.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(false)
        .compile_fds(files.clone())?;
    // For reflection, which does not tell comments.
    for file in &mut files.file {
        file.source_code_info = None;
    }
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    Ok(())
}

fn folder(out: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let folder = out.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
