//! Finite decimals, and PostgreSQL's rules for the scale of each result.

use std::cmp::Ordering;

use super::{Int, MAX_DIGITS, MAX_SCALE};

/// A finite decimal: `unscaled` / 10^`scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal {
    pub unscaled: Int,
    /// Digits after the point, trailing zeros included: what is printed.
    pub scale: u32,
}

impl Decimal {
    /// An integer.
    #[must_use]
    pub const fn from_int(value: i128) -> Decimal {
        Decimal {
            unscaled: Int::Small(value),
            scale: 0,
        }
    }

    /// `unscaled` / 10^`scale`.
    #[must_use]
    pub const fn new(unscaled: i128, scale: u32) -> Decimal {
        Decimal {
            unscaled: Int::Small(unscaled),
            scale,
        }
    }

    /// The same number with at least that scale, as an integer of that scale.
    #[must_use]
    pub fn at_scale(&self, scale: u32) -> Int {
        if scale <= self.scale {
            self.unscaled.clone()
        } else {
            self.unscaled.mul(&Int::pow10(scale - self.scale))
        }
    }

    /// The number in units of 10^-`scale`, cut toward zero where it has more digits.
    #[must_use]
    pub fn at_or_cut(&self, scale: u32) -> Int {
        if scale >= self.scale {
            self.at_scale(scale)
        } else {
            self.unscaled.div(&Int::pow10(self.scale - scale))
        }
    }

    /// Rounded half away from zero to `scale` digits after the point; negative: before it.
    #[must_use]
    pub fn round(&self, scale: i32) -> Decimal {
        self.rescale(scale, Int::div_round)
    }

    /// Cut to `scale` digits after the point; negative: before it.
    #[must_use]
    pub fn trunc(&self, scale: i32) -> Decimal {
        self.rescale(scale, Int::div)
    }

    fn rescale(&self, scale: i32, divide: fn(&Int, &Int) -> Int) -> Decimal {
        match u32::try_from(scale) {
            Ok(scale) if scale >= self.scale => Decimal {
                unscaled: self.at_scale(scale),
                scale,
            },
            Ok(scale) => Decimal {
                unscaled: divide(&self.unscaled, &Int::pow10(self.scale - scale)),
                scale,
            },
            Err(_) => {
                let before = scale.unsigned_abs();
                let cut = u32::try_from(MAX_DIGITS).unwrap_or(u32::MAX);
                if before > cut {
                    return Decimal::from_int(0);
                }
                let power = Int::pow10(before);
                let whole = divide(&self.unscaled, &power.mul(&Int::pow10(self.scale)));
                Decimal {
                    unscaled: whole.mul(&power),
                    scale: 0,
                }
            }
        }
    }

    /// The greatest integer that is not greater.
    #[must_use]
    pub fn floor(&self) -> Decimal {
        let whole = self.trunc(0);
        if self.unscaled.is_negative() && whole.compare(self) == Ordering::Greater {
            return Decimal {
                unscaled: whole.unscaled.sub(&Int::Small(1)),
                scale: 0,
            };
        }
        whole
    }

    /// The least integer that is not less.
    #[must_use]
    pub fn ceil(&self) -> Decimal {
        self.negated().floor().negated()
    }

    #[must_use]
    pub fn negated(&self) -> Decimal {
        Decimal {
            unscaled: self.unscaled.neg(),
            scale: self.scale,
        }
    }

    /// By value: 1.5 and 1.50 are equal.
    #[must_use]
    pub fn compare(&self, other: &Decimal) -> Ordering {
        let scale = self.scale.max(other.scale);
        self.at_scale(scale).cmp(&other.at_scale(scale))
    }

    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.unscaled.is_zero()
    }

    #[must_use]
    pub fn plus(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).add(&other.at_scale(scale)),
            scale,
        }
    }

    #[must_use]
    pub fn minus(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).sub(&other.at_scale(scale)),
            scale,
        }
    }

    #[must_use]
    pub fn times(&self, other: &Decimal) -> Decimal {
        let product = Decimal {
            unscaled: self.unscaled.mul(&other.unscaled),
            scale: self.scale + other.scale,
        };
        if product.scale > MAX_SCALE {
            product.round(16_383)
        } else {
            product
        }
    }

    /// The quotient to the scale that PostgreSQL's `select_div_scale` chooses; `other` is not zero.
    #[must_use]
    pub fn divided_by(&self, other: &Decimal) -> Decimal {
        self.divided_to(other, self.division_scale(other))
    }

    /// The quotient rounded to that scale; `other` is not zero.
    #[must_use]
    pub fn divided_to(&self, other: &Decimal, scale: u32) -> Decimal {
        // self/10^s ÷ other/10^o = self·10^(scale+o-s) ÷ other, in units of 10^-scale.
        let up = scale + other.scale;
        let (dividend, divisor) = if up >= self.scale {
            (
                self.unscaled.mul(&Int::pow10(up - self.scale)),
                other.unscaled.clone(),
            )
        } else {
            (
                self.unscaled.clone(),
                other.unscaled.mul(&Int::pow10(self.scale - up)),
            )
        };
        Decimal {
            unscaled: dividend.div_round(&divisor),
            scale,
        }
    }

    /// At least 16 significant digits, and no fewer after the point than either operand has.
    #[must_use]
    pub fn division_scale(&self, other: &Decimal) -> u32 {
        let (weight, first) = self.leading();
        let (other_weight, other_first) = other.leading();
        let mut quotient_weight = weight - other_weight;
        if first <= other_first {
            quotient_weight -= 1;
        }
        let wanted = u32::try_from(16 - 4 * quotient_weight).unwrap_or(0);
        wanted.max(self.scale).max(other.scale).min(1000)
    }

    /// In base 10,000: the weight of the first digit that is not zero, and that digit.
    fn leading(&self) -> (i64, u32) {
        if self.is_zero() {
            return (0, 0);
        }
        let digits = self.unscaled.digits();
        // The first digit stands for 10^exponent.
        let exponent = digit_count(&digits) - 1 - i64::from(self.scale);
        let weight = exponent.div_euclid(4);
        let take = usize::try_from(exponent.rem_euclid(4) + 1).unwrap_or(1);
        let first = (0..take).fold(0, |value, at| {
            value * 10 + digits.get(at).map_or(0, |byte| u32::from(byte - b'0'))
        });
        (weight, first)
    }

    /// PostgreSQL's weight of the number in base 10,000.
    #[must_use]
    pub fn weight(&self) -> i64 {
        self.leading().0
    }

    /// The remainder of the division toward zero; `other` is not zero.
    #[must_use]
    pub fn remainder(&self, other: &Decimal) -> Decimal {
        let scale = self.scale.max(other.scale);
        Decimal {
            unscaled: self.at_scale(scale).rem(&other.at_scale(scale)),
            scale,
        }
    }

    /// Without trailing zeros after the point.
    #[must_use]
    pub fn trimmed(&self) -> Decimal {
        let mut scale = self.scale;
        let mut unscaled = self.unscaled.clone();
        while scale > 0 && unscaled.rem(&Int::Small(10)).is_zero() {
            unscaled = unscaled.div(&Int::Small(10));
            scale -= 1;
        }
        Decimal { unscaled, scale }
    }

    /// The nearest integer, if it is a bigint.
    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        self.round(0).unscaled.to_i64()
    }

    /// The nearest double; infinite if it is beyond all of them.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        let mut text = Vec::new();
        self.write(&mut text);
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }

    /// Digits, with a point if the scale is not zero.
    pub fn write(&self, out: &mut Vec<u8>) {
        if self.unscaled.is_negative() {
            out.push(b'-');
        }
        write_scaled(&self.unscaled.digits(), self.scale, out);
    }
}

pub(super) fn digit_count(digits: &[u8]) -> i64 {
    i64::try_from(digits.len()).expect("a Vec's length fits")
}

pub(super) fn write_scaled(digits: &[u8], scale: u32, out: &mut Vec<u8>) {
    let scale = usize::try_from(scale).expect("a scale is below 2^15");
    if digits.len() <= scale {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', scale - digits.len()));
        out.extend_from_slice(digits);
    } else {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.extend_from_slice(whole);
        if scale > 0 {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }
}
