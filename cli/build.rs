//! Link options of the release binary.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    // Identical functions (instances of one generic for types of one shape) are kept once. Nothing here compares functions by address. The compiler's
    // default linker for this target (lld) can; others are left alone.
    if of("PROFILE") == "release" && of("TARGET") == "x86_64-unknown-linux-gnu" {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        // Relocations of a position-independent program in a twentieth of the space (DT_RELR; glibc 2.36, Debian 12).
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
