// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "control-plane/images/artifact_store.h"
#include "control-plane/images/child_process.h"
#include "control-plane/images/code_disks.h"
#include "control-plane/images/digest.h"
#include "control-plane/images/image_store.h"
#include "control-plane/images/kept_images.h"
#include "control-plane/limits.h"

namespace hearth::control {
namespace {

namespace fs = std::filesystem;

struct Place {
  Place() {
    char path[] = "/tmp/hearth-images-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    name = path;
  }
  ~Place() { fs::remove_all(name); }
  std::string Write(const std::string& file, const std::string& content) const {
    std::ofstream(name + "/" + file, std::ios::binary) << content;
    return name + "/" + file;
  }
  size_t Count(const std::string& folder) const {
    return std::distance(fs::directory_iterator(name + "/" + folder), fs::directory_iterator());
  }
  std::string name;
};

bool Says(const absl::Status& status, const std::string& text) {
  INFO(status);
  return status.message().find(text) != absl::string_view::npos;
}

// A ustar archive with one file.
std::string Tar(const Place& place, const std::string& file, const std::string& content) {
  place.Write(file, content);
  const auto result =
      RunChild({"tar", "-C", place.name, "-cf", place.name + "/made.tar", file}, Cancellation());
  REQUIRE(result.ok());
  REQUIRE(result->exit_code == 0);
  return place.name + "/made.tar";
}

}  // namespace

TEST_CASE("artifacts: content is kept under its digest, once, and wrong claims are refused") {
  Place place;
  auto store = ArtifactStore::Open(place.name + "/a");
  REQUIRE(store.ok());
  const std::string digest = DigestOf("hello");
  for (int i = 0; i < 2; ++i) {
    auto upload = (*store)->Begin();
    REQUIRE(upload.ok());
    CHECK((*upload)->Write("hel").ok());
    CHECK((*upload)->Write("lo").ok());
    const auto kept = (*upload)->Commit(digest, 5);
    REQUIRE(kept.ok());
    CHECK(*kept == digest);
    CHECK(*DigestOfFile((*store)->PathOf(digest)) == digest);
  }
  {
    auto upload = (*store)->Begin();
    CHECK((*upload)->Write("hello").ok());
    CHECK(Says((*upload)->Commit("", 6).status(), "has 5 bytes, not 6"));
  }
  {
    auto upload = (*store)->Begin();
    CHECK((*upload)->Write("other").ok());
    CHECK(absl::IsInvalidArgument((*upload)->Commit(digest, 0).status()));
  }
  CHECK(place.Count("a/incoming") == 0);
}

TEST_CASE("artifacts: over the limit they are refused, and leftovers go at the next start") {
  Place place;
  {
    auto store = ArtifactStore::Open(place.name + "/a");
    auto upload = (*store)->Begin();
    const std::string chunk(limits::kMaxChunkBytes, 'x');
    absl::Status status;
    int64_t sent = 0;
    while (status.ok()) {
      status = (*upload)->Write(chunk);
      sent += limits::kMaxChunkBytes;
    }
    CHECK(absl::IsInvalidArgument(status));
    CHECK(sent > limits::kMaxArtifactBytes);
  }
  place.Write("a/incoming/left", "x");
  REQUIRE(ArtifactStore::Open(place.name + "/a").ok());
  CHECK(place.Count("a/incoming") == 0);
}

TEST_CASE("code disks: the same archive gives the same digest, whatever its times and owners") {
  Place place;
  VerifiedFiles verified(place.name + "/verified");
  auto disks = CodeDisks::Open(place.name + "/code", &verified);
  REQUIRE(disks.ok());
  const auto first = (*disks)->Build(Tar(place, "app.py", "print(1)"), Cancellation());
  INFO(first.status());
  REQUIRE(first.ok());
  fs::last_write_time(place.name + "/app.py", fs::file_time_type::clock::now());
  const auto second = (*disks)->Build(Tar(place, "app.py", "print(1)"), Cancellation());
  REQUIRE(second.ok());
  CHECK(first->digest == second->digest);
  const auto other = (*disks)->Build(Tar(place, "app.py", "print(2)"), Cancellation());
  REQUIRE(other.ok());
  CHECK(other->digest != first->digest);
  CHECK(place.Count("code/building") == 0);
  REQUIRE((*disks)->Find(first->digest).ok());
  fs::permissions(first->path, fs::perms(0600));
  fs::resize_file(first->path, 100);
  CHECK(absl::IsDataLoss((*disks)->Find(first->digest).status()));
  CHECK(absl::IsNotFound((*disks)->Find(DigestOf("none")).status()));
}

TEST_CASE("files: what is being brought in is not collected, whatever refers to it by then") {
  Place place;
  VerifiedFiles verified(place.name + "/verified");
  auto disks = CodeDisks::Open(place.name + "/code", &verified);
  auto artifacts = ArtifactStore::Open(place.name + "/artifacts");
  REQUIRE(disks.ok());
  REQUIRE(artifacts.ok());
  const auto nothing = [] {
    return absl::StatusOr<std::set<std::string>>(std::set<std::string>());
  };
  {
    const auto kept = (*disks)->Build(Tar(place, "app.py", "print(1)"), Cancellation());
    const auto again = (*disks)->Build(Tar(place, "app.py", "print(1)"), Cancellation());
    REQUIRE(kept.ok());
    { const auto dropped = (*disks)->Build(Tar(place, "app.py", "print(2)"), Cancellation()); }
    CHECK(*(*disks)->Prune(nothing) == 1);
    CHECK((*disks)->Find(kept->digest).ok());
    auto upload = (*artifacts)->Begin();
    REQUIRE(upload.ok());
    REQUIRE((*upload)->Write("x").ok());
    CHECK((*upload)->Commit("", 0).ok());
    CHECK(*(*artifacts)->Prune(nothing) == 0);
  }
  const auto unknown = [] {
    return absl::StatusOr<std::set<std::string>>(absl::UnavailableError("it cannot be read"));
  };
  CHECK(absl::IsUnavailable((*disks)->Prune(unknown).status()));
  CHECK(*(*disks)->Prune(nothing) == 1);
  CHECK(*(*artifacts)->Prune(nothing) == 1);
}

TEST_CASE("code disks: a bad archive or a cancelled build leaves nothing behind") {
  Place place;
  VerifiedFiles verified(place.name + "/verified");
  auto disks = CodeDisks::Open(place.name + "/code", &verified);
  const std::string junk = place.Write("junk", std::string(4096, 'j'));
  CHECK(absl::IsInvalidArgument((*disks)->Build(junk, Cancellation()).status()));
  Cancellation cancellation;
  cancellation.Cancel();
  CHECK(absl::IsCancelled((*disks)->Build(Tar(place, "f", "x"), cancellation).status()));
  CHECK(place.Count("code/building") == 0);
}

TEST_CASE("child processes: output, exit codes and signals come back; cancelled, they are killed") {
  const auto ran = RunChild({"sh", "-c", "echo out; echo err >&2; exit 3"}, Cancellation());
  REQUIRE(ran.ok());
  CHECK(ran->exit_code == 3);
  CHECK(ran->output == "out\nerr\n");
  const auto killed = RunChild({"sh", "-c", "kill -9 $$"}, Cancellation());
  REQUIRE(killed.ok());
  CHECK(killed->signal == 9);
  CHECK(absl::IsFailedPrecondition(RunChild({"hearth-no-such-program"}, Cancellation()).status()));
  Cancellation cancellation;
  std::thread canceller([&] { cancellation.Cancel(); });
  CHECK(absl::IsCancelled(RunChild({"sleep", "600"}, cancellation).status()));
  canceller.join();
}

TEST_CASE("image store: the manifest is read, and every defect is named") {
  Place place;
  VerifiedFiles verified(place.name + "/verified");
  const auto load = [&] { return ImageStore::Load(place.name, &verified); };
  CHECK(Says(load().status(), "cannot open"));
  place.Write("manifest.json", "{]");
  CHECK(Says(load().status(), "not a JSON object"));
  place.Write("kernel", "kernel");
  place.Write("agent", "agent");
  place.Write("py", "py");
  const auto file = [](const std::string& name) {
    return R"({"path": ")" + name + R"(", "digest": ")" + DigestOf(name) + R"("})";
  };
  const std::string runtimes = R"("runtimes": {"python3.11": {"image": )" + file("py") +
                               R"(, "manifest": {"argv": ["/usr/bin/python3.11"], "env": {"A": "b"},
                               "handlerRequired": true, "description": "d"}}}})";
  place.Write("manifest.json", R"({"kernel": )" + file("kernel") + ", " + runtimes);
  CHECK(Says(load().status(), "\"agent\" is missing"));
  place.Write("manifest.json", R"({"kernel": )" + file("kernel") + R"(, "agent": )" +
                                   file("agent") + ", " + runtimes);
  const auto store = load();
  INFO(store.status());
  REQUIRE(store.ok());
  const auto runtime = (*store)->FindRuntime("python3.11");
  REQUIRE(runtime != nullptr);
  CHECK(runtime->resource.handler_required());
  CHECK(runtime->description.environment.at("A") == "b");
  CHECK((*store)->FindRuntime("cobol") == nullptr);
  CHECK_FALSE(*(*store)->Reload());
  place.Write("py", "patched");
  CHECK(Says((*store)->Reload().status(), "damaged"));
  CHECK((*store)->FindRuntime("python3.11")->description.image.digest == DigestOf("py"));
  const std::string patched = R"("runtimes": {"python3.11": {"image": {"path": "py", "digest": ")" +
                              DigestOf("patched") + R"("}, "manifest": {}}}})";
  place.Write("manifest.json", R"({"kernel": )" + file("kernel") + R"(, "agent": )" +
                                   file("agent") + ", " + patched);
  CHECK(*(*store)->Reload());
  CHECK((*store)->FindRuntime("python3.11")->description.image.digest == DigestOf("patched"));
  CHECK(runtime->description.image.digest == DigestOf("py"));  // Who has the old one keeps it.
  place.Write("kernel", "kern");                               // Truncated.
  CHECK(Says(load().status(), "truncated"));
  fs::remove(place.name + "/kernel");
  CHECK(Says(load().status(), "No such file"));
}

TEST_CASE(
    "kept images: they outlive the store they came from, and are checked when they are used") {
  Place place;
  VerifiedFiles verified(place.name + "/verified");
  auto kept = KeptImages::Open(place.name + "/kept", &verified);
  REQUIRE(kept.ok());
  const ImageFile image{place.Write("image", "content"), DigestOf("content")};
  CHECK((*kept)->Find(image.digest).status().code() == absl::StatusCode::kNotFound);
  REQUIRE((*kept)->Keep(image).ok());
  REQUIRE((*kept)->Keep(image).ok());
  fs::remove(image.path);
  REQUIRE((*kept)->Find(image.digest).ok());
  const std::string path = (*kept)->Find(image.digest)->path;
  std::ofstream(path) << "other";
  CHECK(absl::IsDataLoss((*kept)->Find(image.digest).status()));
  // The next process finds the damage before it counts on the file.
  place.Write("image", "content");
  kept = KeptImages::Open(place.name + "/kept", &verified);
  REQUIRE((*kept)->Keep(image).ok());
  CHECK((*kept)->Find(image.digest).ok());
  CHECK_FALSE((*kept)->Keep({image.path, "no digest"}).ok());
  REQUIRE((*kept)->Retain({DigestOf("another")}).ok());
  CHECK_FALSE((*kept)->Find(image.digest).ok());
}

TEST_CASE("verified files: what is unchanged is not read again, not even by the next process") {
  Place place;
  const std::string path = place.Write("f", "content");
  {
    VerifiedFiles verified(place.name + "/cache");
    CHECK(verified.Verify(path, DigestOf("content")).ok());
  }
  VerifiedFiles verified(place.name + "/cache");
  CHECK(verified.Verify(path, DigestOf("content")).ok());
  CHECK(absl::IsDataLoss(verified.Verify(path, DigestOf("else"))));
  place.Write("f", "CONTENT");
  CHECK(absl::IsDataLoss(verified.Verify(path, DigestOf("content"))));
}

}  // namespace hearth::control
