//! The program: parse, run, exit code.

fn main() -> std::process::ExitCode {
    retryspoolfs::cli::main()
}
