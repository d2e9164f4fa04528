// SPDX-License-Identifier: Apache-2.0
#include "agent/files.h"

#include <catch2/catch.hpp>

namespace hearth::agent {
namespace {

TEST_CASE("files: a number is found after its key at the start of a line only") {
  const absl::string_view text = "usage_usec 12\nuser_usec 7\nVmHWM:\t  3456 kB\nrchar: 99\nlast 5";
  REQUIRE(NumberAfter(text, "usage_usec") == 12);
  REQUIRE(NumberAfter(text, "user_usec") == 7);
  REQUIRE(NumberAfter(text, "VmHWM") == 3456);
  REQUIRE(NumberAfter(text, "rchar") == 99);
  REQUIRE(NumberAfter(text, "last") == 5);
  REQUIRE(NumberAfter(text, "usec") == 0);
  REQUIRE(NumberAfter(text, "user") == 0);
  REQUIRE(NumberAfter("key max\n", "key") == 0);
  REQUIRE(NumberAfter("key 99999999999999999999999\n", "key") == 0);
  REQUIRE(NumberAfter("", "key") == 0);
}

TEST_CASE("files: what is no UTF-8 becomes question marks, and nothing is cut inside a letter") {
  REQUIRE(Utf8("grün €𝄞", 100) == "grün €𝄞");
  REQUIRE(Utf8("a\xff\xc3[\xe2\x82z", 100) == "a??[??z");
  REQUIRE(Utf8("\xc0\x80 \xed\xa0\x80 \xf5\x80\x80\x80", 100) == "?? ??? ????");  // RFC 3629, 3.
  REQUIRE(Utf8("grün", 3) == "gr");
  REQUIRE(Utf8("grün", 4) == "grü");
  REQUIRE(Utf8("\xe2\x82", 100) == "??");
}

}  // namespace
}  // namespace hearth::agent
