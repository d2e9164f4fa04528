// SPDX-License-Identifier: Apache-2.0
#include "cli/format.h"

#include <catch2/catch.hpp>

#include "cli/failure.h"
#include "cli/json.h"
#include "cli/names.h"

namespace hearth::cli {
namespace {

TEST_CASE("format: durations and sizes are short and never round to the wrong unit") {
  CHECK(FormatDuration(0.00042) == "0.4 ms");
  CHECK(FormatDuration(0.312) == "312 ms");
  CHECK(FormatDuration(0.9996) == "1.0 s");
  CHECK(FormatDuration(59.97) == "1 min 0 s");
  CHECK(FormatDuration(125.2) == "2 min 5 s");
  CHECK(FormatBytes(999) == "999 B");
  CHECK(FormatBytes(3210) == "3.2 kB");
  CHECK(FormatBytes(999'960'000) == "1.0 GB");
  CHECK(ToSeconds(FromSeconds(1.9999)) == 2);
}

TEST_CASE("format: columns are as wide as they need, figures stand to the right") {
  Table table({"NAME", "COUNT"});
  table.Add({"caf\xc3\xa9", "7"});
  table.Add({"longer name", "1200"});
  CHECK(table.Render() ==
        "NAME         COUNT\n"
        "caf\xc3\xa9             7\n"
        "longer name   1200\n");
}

TEST_CASE("names: an id, a version, an alias and a whole name are told apart") {
  CHECK(ParseFunctionRef("f", "t").Name() == "tenants/t/functions/f");
  CHECK(ParseFunctionRef("f:3", "t").Name() == "tenants/t/functions/f/versions/3");
  CHECK(ParseFunctionRef("f:live", "t").Name() == "tenants/t/functions/f/aliases/live");
  CHECK(ParseFunctionRef("tenants/x/functions/f", "t").Name() == "tenants/x/functions/f");
  CHECK(ParseFunctionRef("tenants/x/functions/f/versions/2", "t").version == "2");
  for (const char* bad :
       {"", "a b", "f:", "tenants/x", "a/b/c/d", "tenants/x/functions/f/y/z", "\xc3\xa4"}) {
    INFO(bad);
    CHECK_THROWS_AS(ParseFunctionRef(bad, "t"), CliError);
  }
  CHECK_FALSE(IsFunctionId(std::string(65, 'a')));
  CHECK(SegmentOf("tenants/t/functions/f/versions/3", "functions") == "f");
  CHECK(FunctionIdFromFolder("/tmp/../tmp/some-function/") == "some-function");
  CHECK_THROWS_AS(FunctionIdFromFolder("/tmp/two words"), CliError);
  CHECK(NewUuid().size() == 36);
  CHECK(NewUuid() != NewUuid());
}

TEST_CASE("json: base64 and UTF-8") {
  CHECK(Base64("") == "");
  CHECK(Base64("a\xff") == "Yf8=");
  CHECK(IsUtf8("caf\xc3\xa9"));
  CHECK_FALSE(IsUtf8("\xff\xd8"));
}

}  // namespace
}  // namespace hearth::cli
