//! The hash that orders names in a hash tree: half an MD4, seeded.
//!
//! Source: Linux `fs/ext4/hash.c`, with names as unsigned bytes; MD4 is RFC 1320.

use super::profile::HASH_SEED;

/// Hash and minor hash of a name. The lowest bit of the hash is 0: it marks continuations.
pub(super) fn half_md4(name: &[u8]) -> (u32, u32) {
    let mut state = HASH_SEED;
    let mut rest = name;
    loop {
        transform(&mut state, &words(rest));
        if rest.len() <= 32 {
            break;
        }
        rest = &rest[32..];
    }
    let hash = match state[1] & !1 {
        // This value means the end of a directory.
        0xFFFF_FFFE => 0xFFFF_FFFC,
        hash => hash,
    };
    (hash, state[2])
}

/// The next 32 bytes of a name as 8 words, first byte highest, filled up with the length that is left.
fn words(rest: &[u8]) -> [u32; 8] {
    let pad = (rest.len() as u32 & 0xFF) * 0x0101_0101;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes
            .iter()
            .fold(pad, |word, byte| word << 8 | u32::from(*byte));
    }
    words
}

/// Which word each of the eight steps of a round takes, and its four rotations.
const ROUNDS: [([usize; 8], [u32; 4]); 3] = [
    ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
    ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
    ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
];

/// What each round adds: 0, and the square roots of 2 and 3 as MD4 has them.
const CONSTANTS: [u32; 3] = [0, 0x5A82_7999, 0x6ED9_EBA1];

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    let [mut a, mut b, mut c, mut d] = *state;
    for (round, (order, turns)) in ROUNDS.iter().enumerate() {
        for (step, word) in order.iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c).wrapping_add((b ^ c) & d),
                _ => b ^ c ^ d,
            };
            let sum = a
                .wrapping_add(mixed)
                .wrapping_add(words[*word])
                .wrapping_add(CONSTANTS[round]);
            // The four registers change places after each step.
            (a, b, c, d) = (d, sum.rotate_left(turns[step % 4]), b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `debugfs -R "dx_hash -h half_md4 -s 5368616c-6520-6469-7220-686173682031 NAME"` prints.
    #[test]
    fn hashes_are_those_of_debugfs() {
        let long = "n".repeat(255);
        let block = "0123456789abcdef0123456789abcdef";
        let cases = [
            ("a", 0x9775_EB0E, 0xA105_B6D0),
            ("abc", 0x2857_A12E, 0xA8C4_769C),
            ("0123456", 0x7A69_94A6, 0xC363_D452),
            (block, 0x4DE3_B724, 0x9428_11E9),
            (&format!("{block}0"), 0x8E2C_9058, 0x7501_1683),
            (&long, 0xC3F7_AFB2, 0x558F_278F),
        ];
        for (name, hash, minor) in cases {
            assert_eq!(half_md4(name.as_bytes()), (hash, minor), "{name}");
        }
    }
}
