//! Many hosts: which they are, who is touched when, what stops a rollout, and what a controller remembers of it. Pure: files
//! and hosts are reached by the caller. Must not decide what is done on a host: that is the host's own run.

pub mod inventory;
pub mod schedule;
pub mod store;
pub mod table;

#[cfg(test)]
mod tests {
    /// Numbers that look random and are the same each time (SplitMix64).
    pub(super) struct Dice(pub u64);

    impl Dice {
        /// A number below `most`.
        pub fn below(&mut self, most: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut hash = self.0;
            hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (hash ^ (hash >> 31)) % most
        }

        /// A number below `most`, for counting.
        pub fn index(&mut self, most: usize) -> usize {
            usize::try_from(self.below(most as u64)).unwrap()
        }

        /// True once in `times`.
        pub fn once_in(&mut self, times: u64) -> bool {
            self.below(times) == 0
        }
    }
}
