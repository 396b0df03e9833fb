//! Profiles: what an agent may do, as TOML files that extend each other.
