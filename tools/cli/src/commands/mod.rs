//! One file per command: an args struct whose doc comments are the help, and one function.

mod cache;
mod completion;
mod config;
mod doctor;
mod drill;
mod export;
mod host;
mod keeper;
mod layer;
mod man;
mod mount;
mod nbd;
mod push;
mod server;
mod template;
mod token;
mod umount;
mod up;
mod vm;

use clap::Subcommand;

use crate::context::Context;

pub(crate) use host::parse_fill_rate;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Push(push::Push),
    Export(export::Export),
    Nbd(nbd::Nbd),
    Mount(mount::MountCommand),
    Umount(umount::Umount),
    #[command(subcommand)]
    Layer(layer::Layer),
    #[command(subcommand)]
    Template(template::Template),
    #[command(subcommand)]
    Server(server::Server),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    Vm(vm::Vm),
    #[command(subcommand)]
    Host(host::HostCommand),
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    Precache(cache::PrecacheCommand),
    /// Deploy a template as a virtual machine: short for `vm deploy`
    Deploy(Box<vm::Deploy>),
    /// List virtual machines: short for `vm ls`
    Ps(vm::Ls),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Up(up::Up),
    Drill(drill::Drill),
    Doctor(doctor::Doctor),
    Completion(completion::Completion),
    #[command(hide = true)]
    Keeper(keeper::Keeper),
    #[command(hide = true)]
    Man(man::Man),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        match self {
            Command::Push(push) => push.run(context),
            Command::Export(export) => export.run(context),
            Command::Nbd(nbd) => nbd.run(context),
            Command::Mount(mount) => mount.run(context),
            Command::Umount(umount) => umount.run(),
            Command::Layer(layer) => layer.run(context),
            Command::Template(template) => template.run(context),
            Command::Server(server) => server.run(context),
            Command::Token(token) => token.run(context),
            Command::Vm(vm) => vm.run(context),
            Command::Host(host) => host.run(context),
            Command::Cache(cache) => cache.run(context),
            Command::Precache(precache) => precache.run(context),
            Command::Deploy(deploy) => deploy.run(context),
            Command::Ps(ls) => ls.run(context),
            Command::Up(up) => up.run(context),
            Command::Config(config) => config.run(context),
            Command::Drill(drill) => drill.run(context),
            Command::Doctor(doctor) => doctor.run(context),
            Command::Keeper(keeper) => keeper.run(),
            Command::Man(man) => man.run(),
            Command::Completion(completion) => {
                completion.run();
                Ok(())
            }
        }
    }
}
