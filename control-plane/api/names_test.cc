// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/names.h"

#include <catch2/catch.hpp>

namespace hearth::control {

TEST_CASE("names: what fits its pattern gives its parts") {
  const auto parts = ParseName(kVersionPattern, "tenants/t/functions/F_1-x/versions/12", "name");
  REQUIRE(parts.ok());
  CHECK(*parts == std::vector<std::string>{"t", "F_1-x", "12"});
  CHECK(ParentOf("tenants/t/functions/f/versions/12") == "tenants/t/functions/f");
  CHECK(ParentOf("tenants/t/functions/f") == "tenants/t");
  CHECK(ParentOf("tenants/t").empty());
  CHECK(IdOf("tenants/t/functions/f") == "f");
}

TEST_CASE("names: what does not fit is INVALID_ARGUMENT") {
  for (const char* name :
       {"", "tenants", "tenants/", "tenants/t/functions", "tenants/t/functions/",
        "/tenants/t/functions/f", "tenants/t/functions/f/", "tenants/t/functions/-",
        "tenants/t/functions/a.b", "tenants/t/functions/a b", "tenants/t/functions/..",
        "tenant/t/functions/f"}) {
    INFO(name);
    CHECK(absl::IsInvalidArgument(ParseName(kFunctionPattern, name, "name").status()));
  }
  for (const char* version : {"0", "01", "-1", "1a", "1234567890", "latest"}) {
    INFO(version);
    CHECK_FALSE(
        ParseName(kVersionPattern, std::string("tenants/t/functions/f/versions/") + version, "name")
            .ok());
  }
  CHECK(ParseName(kFunctionPattern, "tenants/-/functions/-", "parent", true).ok());
  CHECK(CheckId(std::string(64, 'a'), "id").ok());
  CHECK_FALSE(CheckId(std::string(65, 'a'), "id").ok());
  CHECK_FALSE(CheckId("-", "id").ok());
  CHECK_FALSE(CheckId("\xc3\xa4", "id").ok());
}

}  // namespace hearth::control
