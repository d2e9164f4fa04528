// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/fields.h"

#include <catch2/catch.hpp>

#include "hearth/v1/resources.pb.h"

namespace hearth::control {
namespace {

const std::set<std::string> kAllowed = {"description", "labels"};

hearth::v1::Function Patched(const std::vector<std::string>& paths) {
  hearth::v1::Function target, patch;
  target.set_name("n");
  target.set_description("old");
  (*target.mutable_labels())["a"] = "1";
  patch.set_name("other");
  patch.set_description("new");
  google::protobuf::FieldMask mask;
  for (const auto& path : paths) mask.add_paths(path);
  REQUIRE(ApplyMask(patch, mask, kAllowed, &target).ok());
  CHECK(target.name() == "n");
  return target;
}

}  // namespace

TEST_CASE("field masks: only what is named changes; absent means what is set") {
  CHECK(Patched({}).description() == "new");
  CHECK(Patched({}).labels().at("a") == "1");
  CHECK(Patched({"labels"}).description() == "old");
  CHECK(Patched({"labels"}).labels().empty());
  CHECK(Patched({"*"}).description() == "new");
  CHECK(Patched({"*"}).labels().empty());
  hearth::v1::Function target;
  google::protobuf::FieldMask mask;
  mask.add_paths("uid");
  CHECK(absl::IsInvalidArgument(ApplyMask(target, mask, kAllowed, &target)));
}

TEST_CASE("page tokens: good for the list that gave them, and nothing else") {
  const std::string token = MakePageToken("functions of tenants/t", "key/1");
  const auto page = ParsePage(0, token, "functions of tenants/t");
  REQUIRE(page.ok());
  CHECK(page->after == "key/1");
  CHECK(page->size == 100);
  CHECK(ParsePage(5000, "", "x")->size == 1000);
  CHECK(ParsePage(7, "", "x")->size == 7);
  for (const std::string& wrong :
       {std::string("!!"), std::string("AAAA"), token + "A", std::string(2000, 'A')}) {
    CHECK(absl::IsInvalidArgument(ParsePage(0, wrong, "other").status()));
  }
  CHECK(absl::IsInvalidArgument(ParsePage(0, token, "other").status()));
  CHECK(absl::IsInvalidArgument(ParsePage(-1, "", "x").status()));
}

TEST_CASE("etags: change with the content, and are checked only when sent") {
  hearth::v1::Function function;
  function.set_name("f");
  const std::string first = EtagOf(function);
  function.set_description("d");
  CHECK(EtagOf(function) != first);
  CHECK(CheckEtag("", first, "f").ok());
  CHECK(CheckEtag(first, first, "f").ok());
  CHECK(absl::IsAborted(CheckEtag("x", first, "f")));
}

TEST_CASE("times: out of range is refused, what is in range survives") {
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(253402300800);
  CHECK_FALSE(FromTimestamp(timestamp, "t").ok());
  timestamp.set_seconds(-5);
  timestamp.set_nanos(7);
  const auto back = ToTimestamp(*FromTimestamp(timestamp, "t"));
  CHECK(back.seconds() == -5);
  CHECK(back.nanos() == 7);
  CHECK(FromDuration(ToDuration(absl::Milliseconds(-1500))) == absl::Milliseconds(-1500));
}

}  // namespace hearth::control
