// SPDX-License-Identifier: Apache-2.0
#include "wire/text.h"

#include <catch2/catch.hpp>

namespace hearth::wire {
namespace {

TEST_CASE("text: what is valid UTF-8 stays, what is not and what controls a terminal is replaced") {
  CHECK(SanitizeText("tab\tand\nnewline, \xC3\xA9", 100) == "tab\tand\nnewline, \xC3\xA9");
  CHECK(SanitizeText("\x1B[31m", 100) == "\xEF\xBF\xBD[31m");
  CHECK(SanitizeText("a\xFF\xC0\x80z", 100) == "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
  CHECK(SanitizeText("\xED\xA0\x80", 3) == "\xEF\xBF\xBD");  // A surrogate's first byte.
}

TEST_CASE("text: it is cut between characters") {
  CHECK(SanitizeText("ab\xC3\xA9", 3) == "ab");
  CHECK(SanitizeText("ab\xC3\xA9", 4) == "ab\xC3\xA9");
  CHECK(SanitizeText("abc\x01", 4) == "abc");
}

}  // namespace
}  // namespace hearth::wire
