//! Random numbers of tests, which a seed replays.

/// The seed of a random test: `TEST_SEED`, or else one that no run had before. A test that fails
/// shows what is printed here.
pub fn seed() -> u64 {
    seed_or(fastrand::u64(..))
}

/// The seed of a test that does the same in every run, unless `TEST_SEED` is set.
pub fn seed_or(usual: u64) -> u64 {
    let seed = std::env::var("TEST_SEED").ok().map(|seed| seed.parse().expect("TEST_SEED"));
    let seed = seed.unwrap_or(usual);
    eprintln!("TEST_SEED={seed}");
    seed
}

/// How often a random test tries: so many times, or `TEST_SCALE` times as many.
pub fn times(usual: u64) -> u64 {
    let scale = std::env::var("TEST_SCALE").ok();
    usual * scale.map_or(1, |scale| scale.parse().expect("TEST_SCALE"))
}

/// Dice for tests that try many ways.
pub struct Dice(fastrand::Rng);

impl Dice {
    /// Dice that roll the same for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Other dice, for a task of the same test: they also roll the same for the same seed.
    pub fn split(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// From 0 to `sides` - 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0.u64(..sides)
    }

    /// From 0 to `sides` - 1, as an index.
    pub fn index(&mut self, sides: usize) -> usize {
        self.0.usize(..sides)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// Whether something happens that happens one time in so many.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    /// So many random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.0.u8(..)).take(count).collect()
    }
}
