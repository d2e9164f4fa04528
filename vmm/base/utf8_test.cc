// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/utf8.h"

#include <catch2/catch.hpp>
#include <cstdint>
#include <string>

namespace hearth {
namespace {

// As RFC 3629, 3 encodes; nothing for what is no scalar value.
std::string Encode(uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3f)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
}

TEST_CASE(
    "utf8: each scalar value is one sequence, followed by anything, and none when it is cut") {
  for (uint32_t code = 0; code < 0x110000; code += code < 0x11000 ? 1 : 251) {
    const std::string text = Encode(code);
    const bool surrogate = code >= 0xd800 && code <= 0xdfff;
    const size_t expected = surrogate ? 0 : text.size();
    if (Utf8SequenceBytes(text + "\xff") != expected ||
        (text.size() > 1 && Utf8SequenceBytes(text.substr(0, text.size() - 1)) != 0)) {
      FAIL("U+" << std::hex << code);
    }
  }
}

TEST_CASE("utf8: overlong forms, what is beyond U+10FFFF and lone bytes are none") {
  for (const char* text :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3(", "\xe2\x82("}) {
    INFO(text);
    CHECK(Utf8SequenceBytes(text) == 0);
  }
}

}  // namespace
}  // namespace hearth
