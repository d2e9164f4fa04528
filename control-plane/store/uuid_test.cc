// SPDX-License-Identifier: Apache-2.0
#include "control-plane/store/uuid.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>
#include <vector>

namespace hearth::control {
namespace {

TEST_CASE("uuid: text sorts in the order of making, even when the clock steps back") {
  UuidGenerator generator;
  std::string last;
  for (int i = 0; i < 10'000; ++i) {
    const std::string next = generator.NextAt(1'700'000'000'000 - i % 7);
    CHECK(next > last);
    last = next;
  }
}

TEST_CASE("uuid: version, variant and time are where RFC 9562 puts them") {
  UuidGenerator generator;
  const std::string uuid = generator.NextAt(0x0123456789ab);
  CHECK(IsUuid(uuid));
  CHECK(uuid.substr(0, 13) == "01234567-89ab");
  CHECK(uuid[14] == '7');
  CHECK(std::string("89ab").find(uuid[19]) != std::string::npos);
}

TEST_CASE("uuid: threads never get the same one") {
  UuidGenerator generator;
  std::vector<std::vector<std::string>> made(4);
  std::vector<std::thread> threads;
  for (auto& mine : made) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) mine.push_back(generator.Next());
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<std::string> all;
  for (const auto& mine : made) all.insert(mine.begin(), mine.end());
  CHECK(all.size() == 8000);
}

TEST_CASE("uuid: other texts are not taken for one") {
  CHECK_FALSE(IsUuid(""));
  CHECK_FALSE(IsUuid("01234567-89ab-7000-8000-00000000000"));
  CHECK_FALSE(IsUuid("01234567-89AB-7000-8000-000000000000"));
  CHECK_FALSE(IsUuid("01234567x89ab-7000-8000-000000000000"));
}

}  // namespace
}  // namespace hearth::control
