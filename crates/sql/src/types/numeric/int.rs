//! Integers of any size: machine words while they fit, else big ones.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};

/// An integer of any size that costs no allocation while it is small.
#[derive(Debug, Clone)]
pub enum Int {
    Small(i128),
    /// May hold a value that would be small.
    Big(BigInt),
}

impl PartialEq for Int {
    fn eq(&self, other: &Int) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Int {}

impl PartialOrd for Int {
    fn partial_cmp(&self, other: &Int) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Int {
    fn cmp(&self, other: &Int) -> Ordering {
        match (self, other) {
            (Int::Small(a), Int::Small(b)) => a.cmp(b),
            _ => self.to_big().cmp(&other.to_big()),
        }
    }
}

impl Int {
    #[must_use]
    pub fn to_big(&self) -> BigInt {
        match self {
            Int::Small(value) => BigInt::from(*value),
            Int::Big(value) => value.clone(),
        }
    }

    fn from_big(value: BigInt) -> Int {
        i128::try_from(&value).map_or(Int::Big(value), Int::Small)
    }

    fn combine(
        &self,
        other: &Int,
        small: fn(i128, i128) -> Option<i128>,
        big: impl FnOnce(BigInt, BigInt) -> BigInt,
    ) -> Int {
        if let (Int::Small(a), Int::Small(b)) = (self, other)
            && let Some(value) = small(*a, *b)
        {
            return Int::Small(value);
        }
        Int::from_big(big(self.to_big(), other.to_big()))
    }

    #[must_use]
    pub fn add(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_add, |a, b| a + b)
    }

    #[must_use]
    pub fn sub(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_sub, |a, b| a - b)
    }

    #[must_use]
    pub fn mul(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_mul, |a, b| a * b)
    }

    /// Toward zero; `other` is not zero.
    #[must_use]
    pub fn div(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_div, |a, b| a / b)
    }

    /// With the sign of `self`; `other` is not zero.
    #[must_use]
    pub fn rem(&self, other: &Int) -> Int {
        self.combine(other, i128::checked_rem, |a, b| a % b)
    }

    #[must_use]
    pub fn neg(&self) -> Int {
        Int::Small(0).sub(self)
    }

    #[must_use]
    pub fn is_negative(&self) -> bool {
        match self {
            Int::Small(value) => *value < 0,
            Int::Big(value) => value.sign() == Sign::Minus,
        }
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Int::Small(value) => *value == 0,
            Int::Big(value) => value.sign() == Sign::NoSign,
        }
    }

    /// Without its sign.
    #[must_use]
    pub fn abs(&self) -> Int {
        if self.is_negative() {
            self.neg()
        } else {
            self.clone()
        }
    }

    /// 10^`power`.
    #[must_use]
    pub fn pow10(power: u32) -> Int {
        match 10i128.checked_pow(power) {
            Some(value) => Int::Small(value),
            None => Int::Big(BigInt::from(10).pow(power)),
        }
    }

    /// Divided by `other`, rounded half away from zero.
    #[must_use]
    pub fn div_round(&self, other: &Int) -> Int {
        let quotient = self.div(other);
        let rest = self.rem(other).abs();
        if rest.add(&rest) < other.abs() {
            return quotient;
        }
        let one = Int::Small(if self.is_negative() == other.is_negative() {
            1
        } else {
            -1
        });
        quotient.add(&one)
    }

    /// The greatest integer whose square is at most this, which is not negative.
    #[must_use]
    pub fn isqrt(&self) -> Int {
        match self {
            Int::Small(value) => Int::Small(value.isqrt()),
            Int::Big(value) => Int::from_big(value.sqrt()),
        }
    }

    /// Its decimal digits, without a sign.
    #[must_use]
    pub fn digits(&self) -> Vec<u8> {
        match self {
            Int::Small(value) => {
                let mut left = value.unsigned_abs();
                let mut digits = Vec::with_capacity(20);
                while left >= 10_000_000_000_000_000_000 {
                    digits.push(digit(left % 10));
                    left /= 10;
                }
                let mut left = u64::try_from(left).expect("below 10^19");
                while left > 0 {
                    digits.push(digit(u128::from(left % 10)));
                    left /= 10;
                }
                if digits.is_empty() {
                    digits.push(b'0');
                }
                digits.reverse();
                digits
            }
            Int::Big(value) => value.magnitude().to_str_radix(10).into_bytes(),
        }
    }

    /// The integer of those ASCII digits.
    #[must_use]
    pub fn from_digits(digits: &[u8]) -> Int {
        if digits.len() <= 38 {
            return Int::Small(
                digits
                    .iter()
                    .fold(0, |value, byte| value * 10 + i128::from(byte - b'0')),
            );
        }
        Int::from_big(BigInt::parse_bytes(digits, 10).unwrap_or_default())
    }

    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Int::Small(value) => i64::try_from(*value).ok(),
            Int::Big(value) => i64::try_from(value).ok(),
        }
    }
}

fn digit(value: u128) -> u8 {
    b'0' + u8::try_from(value).expect("one digit")
}
