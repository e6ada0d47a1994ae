//! What the tokens of questions that are asked together are found by. Those of a batch mostly show few tokens, and a long one is
//! hashed in some twenty times the time that it takes to compare it.

/// What a token is found by among those that are remembered.
pub type TokenHash = [u8; 16];

/// How many tokens are kept in hand at most: a power of two, and few enough that to make room for them costs a batch nothing.
const PLACES: usize = 16;

/// The hashes of some tokens, each taken once unless another token came in between to the same place.
///
/// A hash depends on its token alone, so it is never out of date: whatever may change between two questions is looked up by it,
/// for each of them. Tokens are borrowed, so none stays in here longer than the questions that show them.
#[derive(Default)]
pub struct TokenHashes<'a>([Option<(&'a str, TokenHash)>; PLACES]);

impl<'a> TokenHashes<'a> {
    /// The hash of `token`: as it was taken before, or as `hash` takes it.
    pub fn of(&mut self, token: &'a str, hash: impl FnOnce(&str) -> TokenHash) -> TokenHash {
        let place = &mut self.0[place_of(token)];
        if let Some((known, hash)) = place
            && *known == token
        {
            return *hash;
        }
        let hash = hash(token);
        *place = Some((token, hash));
        hash
    }
}

/// By the last character but one: of a signature, and all six bits of it. Often the last one stands for two or four only.
fn place_of(token: &str) -> usize {
    token.bytes().nth_back(1).map_or(0, usize::from) % PLACES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Depends on every byte, for tokens that are as short as these.
    fn hash(token: &str) -> TokenHash {
        let mut hash = TokenHash::default();
        hash[..token.len()].copy_from_slice(token.as_bytes());
        hash[TokenHash::default().len() - 1] = u8::try_from(token.len()).unwrap_or(u8::MAX);
        hash
    }

    proptest! {
        /// Tokens of few letters: many are alike, of one length, or come to one place.
        #[test]
        fn a_hash_is_that_of_its_token_whichever_were_asked_for_before(
            tokens in prop::collection::vec("[ab]{0,4}[aq]{0,2}", 0..100),
        ) {
            let mut hashes = TokenHashes::default();
            for token in &tokens {
                prop_assert_eq!(hashes.of(token, hash), hash(token));
            }
        }
    }

    #[test]
    fn tokens_that_are_shown_in_turns_are_hashed_once() {
        let tokens = ["x.y.aaQ", "x.y.abQ", "x.y.acQ"];
        let (mut hashes, mut taken) = (TokenHashes::default(), 0);
        for token in tokens.iter().cycle().take(300) {
            hashes.of(token, |token| {
                taken += 1;
                hash(token)
            });
        }
        assert_eq!(taken, tokens.len());
    }
}
