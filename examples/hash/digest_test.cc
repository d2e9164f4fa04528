// SPDX-License-Identifier: Apache-2.0
#include "examples/hash/digest.h"

#include <catch2/catch.hpp>

// FIPS 180-4's examples.
TEST_CASE("hash: the digests are SHA-256's") {
  CHECK(DescribePayload("") ==
        "{\"sha256\":\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\","
        "\"bytes\":0}");
  CHECK(DescribePayload("abc") ==
        "{\"sha256\":\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\","
        "\"bytes\":3}");
}

TEST_CASE("hash: a payload with zero bytes is hashed whole") {
  CHECK(DescribePayload(std::string(1000000, '\0')).find("\"bytes\":1000000}") !=
        std::string::npos);
}
