// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/state.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "control-plane/images/digest.h"

namespace hearth::control {
namespace {

struct Place {
  Place() {
    char path[] = "/tmp/hearth-state-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    name = path;
    std::filesystem::create_directory(name + "/images");
    const auto file = [this](const std::string& image) {
      std::ofstream(name + "/images/" + image) << image;
      return R"({"path": ")" + image + R"(", "digest": ")" + DigestOf(image) + R"("})";
    };
    std::ofstream(name + "/images/manifest.json")
        << R"({"kernel": )" << file("kernel") << R"(, "agent": )" << file("agent")
        << R"(, "runtimes": {"base": {"image": )" << file("base") << R"(, "manifest": {}}}})";
  }
  ~Place() { std::filesystem::remove_all(name); }
  absl::Status Open() const { return State::Open(name + "/state", name + "/images").status(); }
  std::string name;
};

bool Says(const absl::Status& status, const std::string& text) {
  INFO(status);
  return status.message().find(text) != absl::string_view::npos;
}

}  // namespace

TEST_CASE("state: made at the first start, found at the second") {
  Place place;
  CHECK(place.Open().ok());
  CHECK(place.Open().ok());
}

TEST_CASE("state: one hearthd at a time") {
  Place place;
  const auto first = State::Open(place.name + "/state", place.name + "/images");
  REQUIRE(first.ok());
  CHECK(Says(place.Open(), "another hearthd uses the state directory"));
}

TEST_CASE("state: what cannot be used is named, with what to do") {
  Place place;
  std::ofstream(place.name + "/state") << "a file";
  CHECK(Says(place.Open(), "--state-dir"));
  std::filesystem::remove(place.name + "/state");
  std::filesystem::resize_file(place.name + "/images/kernel", 3);
  CHECK(Says(place.Open(), "truncated"));
  std::filesystem::remove(place.name + "/images/manifest.json");
  CHECK(Says(place.Open(), "build the images"));
  Place damaged;
  std::filesystem::create_directory(damaged.name + "/state");
  std::ofstream(damaged.name + "/state/ledger.db") << std::string(8192, 'x');
  CHECK(Says(damaged.Open(), "ledger.db"));
}

}  // namespace hearth::control
