//! The `keyward` program: hands its arguments to the library and exits with the code it gets back.

fn main() -> std::process::ExitCode {
    keyward::cli::main()
}
