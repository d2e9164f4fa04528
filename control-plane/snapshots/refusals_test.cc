// SPDX-License-Identifier: Apache-2.0
// What is refused, each with its own words.
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/keys.h"
#include "control-plane/snapshots/testing/test_store.h"

namespace hearth::control {
namespace {

namespace fs = std::filesystem;

struct World {
  World() : store(OpenStore(place)), machine(1, {0, 20}) {
    uid = PublishUnpinned(store.get(), machine);
    other = PublishUnpinned(store.get(), SavedTestMachine(2, {0, 40}));
  }
  std::string File(const std::string& file) const { return place.FileOf(uid, file); }
  // That loading is refused with these words, resident or not, and serves again after `mend`.
  void Refused(const std::string& words, absl::StatusCode code = absl::StatusCode::kDataLoss) {
    const absl::Status status = store->Load(uid).status();
    CHECK(status.code() == code);
    CHECK(Says(status, words));
    CHECK(Says(status, absl::StrCat("snapshot ", uid)));
  }
  // Writes a header with the right MAC, as a Hearth of another kind would.
  void Forge(const hearth::snapshot::v1::Header& header) const {
    SnapshotKey key;
    const std::string bytes = ReadAll(place.Path("key"));
    std::copy(bytes.begin(), bytes.end(), key.begin());
    const std::string text = header.SerializeAsString();
    WriteAll(File("header"), text);
    WriteAll(File("mac"),
             std::string(Raw(KeyedDigest(DeriveTenantKeys(key, header.tenant()).header).Of(text))));
  }
  hearth::snapshot::v1::Header Header() const { return *ParseHeader(ReadAll(File("header"))); }

  Place place;
  std::unique_ptr<SnapshotStore> store;
  SavedTestMachine machine;
  std::string uid, other;
};

std::string Flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  return bytes;
}

}  // namespace

TEST_CASE(
    "refused: a header that is altered, truncated or missing, even while memory is resident") {
  World world;
  const bool resident = GENERATE(false, true);
  std::shared_ptr<const ResidentSnapshot> held;
  if (resident) held = Load(world.store.get(), world.uid);
  const std::string good = ReadAll(world.File("header"));
  // Its tail holds the tenant and a size; its version's name is in the middle.
  WriteAll(world.File("header"), Flipped(good, good.find("functions")));
  world.Refused("header is altered or truncated");
  WriteAll(world.File("header"), Flipped(good, good.size() - 1));
  world.Refused("header is altered or truncated");
  WriteAll(world.File("header"), good.substr(0, good.size() - 4));
  world.Refused("header ");
  WriteAll(world.File("header"), "");
  world.Refused("header has no format version");
  WriteAll(world.File("header"), std::string(limits::kMaxSnapshotHeaderBytes + 1, 'x'));
  world.Refused("header has 65537 bytes; at most 65536");
  fs::remove(world.File("header"));
  world.Refused("header is missing");
  fs::create_symlink(world.place.FileOf(world.other, "header"), world.File("header"));
  world.Refused("header is no regular file");
  fs::remove(world.File("header"));
  REQUIRE(mkfifo(world.File("header").c_str(), 0600) == 0);
  world.Refused("header is no regular file");
  fs::remove(world.File("header"));
  WriteAll(world.File("header"), good);
  Load(world.store.get(), world.uid);
}

TEST_CASE("refused: every altered bit and every shorter length of a header") {
  World world;
  const std::string good = ReadAll(world.File("header"));
  for (size_t at = 0; at < good.size(); ++at) {
    WriteAll(world.File("header"), Flipped(good, at));
    REQUIRE_FALSE(world.store->Load(world.uid).ok());
    WriteAll(world.File("header"), good.substr(0, at));
    REQUIRE_FALSE(world.store->Load(world.uid).ok());
  }
}

TEST_CASE("refused: a mac that is altered, truncated or missing") {
  World world;
  const std::string good = ReadAll(world.File("mac"));
  WriteAll(world.File("mac"), Flipped(good, 31));
  world.Refused("header is altered or truncated, or made with another store's key");
  WriteAll(world.File("mac"), good.substr(1));
  world.Refused("mac is truncated or altered: it has 31 of 32 bytes");
  WriteAll(world.File("mac"), good + "x");
  world.Refused("mac is truncated or altered: it has 33 of 32 bytes");
  fs::remove(world.File("mac"));
  world.Refused("mac is missing");
}

TEST_CASE("refused: a state that is altered, truncated or missing, even while memory is resident") {
  World world;
  const bool resident = GENERATE(false, true);
  std::shared_ptr<const ResidentSnapshot> held;
  if (resident) held = Load(world.store.get(), world.uid);
  const std::string good = ReadAll(world.File("state"));
  WriteAll(world.File("state"), Flipped(good, 3));
  world.Refused("state is altered or another snapshot's");
  WriteAll(world.File("state"), good.substr(1));
  world.Refused(absl::StrCat("state is truncated: it has ", good.size() - 1, " of ", good.size()));
  WriteAll(world.File("state"), good + "x");
  world.Refused("state is altered or another snapshot's");
  fs::remove(world.File("state"));
  world.Refused("state is missing");
}

TEST_CASE("refused: a memory manifest that is altered, truncated or missing") {
  World world;
  const std::string good = ReadAll(world.File("memory"));
  WriteAll(world.File("memory"), Flipped(good, good.size() - 1));
  world.Refused("memory manifest is altered");
  WriteAll(world.File("memory"), good.substr(0, good.size() - 1));
  world.Refused("memory manifest is altered, truncated");
  WriteAll(world.File("memory"), good.substr(0, 100));
  world.Refused("memory manifest is truncated: it has 100 bytes, and 512 of digests are due");
  fs::remove(world.File("memory"));
  world.Refused("memory manifest is missing");
}

TEST_CASE("refused: a chunk that is altered, truncated, missing or another's") {
  World world;
  std::set<std::string> chunks;  // Those of the snapshot under test alone.
  const std::string manifest = ReadAll(world.File("memory"));
  for (const std::string& path : world.place.Chunks()) {
    const std::string name = fs::path(path).filename();
    if (manifest.find(absl::HexStringToBytes(name)) != std::string::npos) chunks.insert(path);
  }
  REQUIRE(chunks.size() == 2);
  const std::string path = *chunks.begin();
  const std::string name = fs::path(path).filename();
  const std::string good = ReadAll(path);
  WriteAll(path, Flipped(good, 4000));
  world.Refused(absl::StrCat("(", name, ") is altered, or another tenant's"));
  WriteAll(path, good.substr(0, 4000));
  world.Refused("is truncated: it has 4000 of 4098 bytes");
  WriteAll(path, "x");
  world.Refused("is truncated: it has 1 bytes");
  WriteAll(path, good + "x");
  world.Refused("is altered: it has 4099 of 4098 bytes");
  WriteAll(path, std::string(limits::kMaxStoredChunkBytes + 1, 'x'));
  world.Refused("has 65539 bytes; at most 65538");
  WriteAll(path, Flipped(good, 0));
  world.Refused("bytes");
  WriteAll(path, ReadAll(*chunks.rbegin()));
  world.Refused("is altered, or another tenant's");
  fs::remove(path);
  world.Refused(absl::StrCat("(", name, ") is missing"));
  fs::remove_all(world.place.Path("chunks/t1"));
  world.Refused("the tenant's chunks are missing");
}

TEST_CASE("refused: another tenant's chunk in the place of one's own") {
  World world;
  SavedTestMachine machine(1, {0, 20}, "t2");
  const std::string theirs = PublishUnpinned(world.store.get(), machine);
  // The very same content, under the name it has for the first tenant, with the digests swapped.
  const std::string own = ReadAll(*world.place.Chunks("t1").begin());
  for (const std::string& path : world.place.Chunks("t2")) {
    if (ReadAll(path) != own) WriteAll(path, own);
  }
  world.uid = theirs;
  world.Refused("is altered, or another tenant's");
  // A whole manifest of the other tenant.
  fs::copy_file(world.place.FileOf(world.other, "memory"), world.File("memory"),
                fs::copy_options::overwrite_existing);
  world.Refused("memory manifest is altered, truncated or another snapshot's");
}

TEST_CASE("refused: files swapped between two snapshots") {
  World world;
  const auto take = [&](const std::string& file) {
    fs::copy_file(world.place.FileOf(world.other, file), world.File(file),
                  fs::copy_options::overwrite_existing);
  };
  const std::string state = ReadAll(world.File("state"));
  take("state");
  world.Refused("state is altered or another snapshot's");
  WriteAll(world.File("state"), state);
  const std::string memory = ReadAll(world.File("memory"));
  take("memory");
  world.Refused("memory manifest is altered, truncated or another snapshot's");
  WriteAll(world.File("memory"), memory);
  const std::string mac = ReadAll(world.File("mac"));
  take("mac");
  world.Refused("it does not fit its mac");
  WriteAll(world.File("mac"), mac);
  Load(world.store.get(), world.uid);
  take("header");
  world.Refused(absl::StrCat("header is of another snapshot, ", world.other));
  for (const char* file : {"mac", "state", "memory", "working-set"}) take(file);
  world.Refused(absl::StrCat("header is of another snapshot, ", world.other));
}

TEST_CASE("refused: a future format version, before anything else is judged") {
  World world;
  hearth::snapshot::v1::Header header = world.Header();
  header.set_format_version(2);
  header.clear_state_digest();
  WriteAll(world.File("header"), header.SerializeAsString());
  world.Refused("header has the format version 2, of a newer Hearth; this one reads up to 1",
                absl::StatusCode::kFailedPrecondition);
  world.Forge(header);
  world.Refused("header has the format version 2", absl::StatusCode::kFailedPrecondition);
  CHECK(Says((*world.store->List())[0].problem, "format version 2"));
}

TEST_CASE("refused: authentic files that contradict each other") {
  World world;
  hearth::snapshot::v1::Header header = world.Header();
  header.set_memory_mib(2);
  world.Forge(header);
  world.Refused("memory manifest is truncated");
  header = world.Header();
  header.set_memory_mib(0);
  world.Forge(header);
  world.Refused("header tells of 0 MiB of memory");
  header.set_memory_mib(1);
  header.set_tenant("../t1");
  WriteAll(world.File("header"), header.SerializeAsString());
  world.Refused("header has no valid tenant");
}

TEST_CASE("refused: a snapshot under another store's key") {
  World world;
  world.store.reset();
  WriteAll(world.place.Path("key"), std::string(32, 'k'));
  world.store = OpenStore(world.place);
  world.Refused("made with another store's key");
}

TEST_CASE("refused: a snapshot that is not there, and names that are none") {
  World world;
  for (const char* uid : {"", "..", "x", "018f0000-0000-7000-8000-000000000000"}) {
    CHECK(absl::IsNotFound(world.store->Load(uid).status()));
    CHECK(absl::IsNotFound(world.store->Delete(uid)));
  }
  fs::remove_all(world.place.Path("snapshots/" + world.uid));
  CHECK(absl::IsNotFound(world.store->Load(world.uid).status()));
}

}  // namespace hearth::control
