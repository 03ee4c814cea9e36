//! The arguments of the commands that look into tensors. Never runs anything.

use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub struct Diff {
    /// What it is compared with, the earlier one as it were
    #[arg(value_name = "REF")]
    pub before: String,
    /// The checkpoint
    #[arg(value_name = "REF")]
    pub after: String,
    /// Compare the tensors as well, and say by how much they differ
    #[arg(long)]
    pub tensors: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Log {
    /// The run
    pub run: String,
    /// The tensor: its name as `show --tensors` has it, or a glob that matches one name
    #[arg(long, value_name = "NAME")]
    pub tensor: String,
    /// Follow the element at this position, such as 0,17; negative ones count from the end
    #[arg(long, value_name = "I,J,...", value_delimiter = ',', allow_hyphen_values = true)]
    pub index: Vec<i64>,
    /// Print comma-separated values
    #[arg(long)]
    pub csv: bool,
}
