BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE aliases (
	id INTEGER NOT NULL, 
	base_id INTEGER NOT NULL, 
	scheme VARCHAR(16) NOT NULL, 
	value VARCHAR(1024) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (id), 
	CONSTRAINT uq_aliases_scheme_value UNIQUE (scheme, value), 
	CONSTRAINT fk_aliases_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_aliases_scheme_known CHECK (scheme IN ('name', 'path', 'hub', 'sha256-set'))
);
INSERT INTO "aliases" VALUES(1,1,'path','/models/base','2026-11-21 18:28:56.335194');
INSERT INTO "aliases" VALUES(2,1,'hub','org/base@0000000000000000000000000000000000000000','2026-11-21 18:28:56.335700');
INSERT INTO "aliases" VALUES(3,1,'sha256-set','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','2026-11-21 18:28:56.335940');
CREATE TABLE applications (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	manifest_digest VARCHAR(71) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	alpha DOUBLE, 
	device TEXT NOT NULL, 
	applied_at DATETIME NOT NULL, 
	verified_at DATETIME, 
	evidence TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	CONSTRAINT pk_applications PRIMARY KEY (id), 
	CONSTRAINT fk_applications_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_applications_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_applications_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = '')
);
INSERT INTO "applications" VALUES(1,1,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(2,1,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
INSERT INTO "applications" VALUES(3,2,3,'blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','safety_lock',2.5,'cuda:0','2030-01-01 12:00:00.000000','2030-01-01 12:00:01.000000','{"modules":2,"worst":1e-7}','enforce');
INSERT INTO "applications" VALUES(4,2,NULL,'blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f','safety_lock',NULL,'cpu','2030-01-01 12:00:00.000000',NULL,'{}','warn');
CREATE TABLE "artifacts" (
	id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	base_id INTEGER NOT NULL, 
	sequence BIGINT DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, 
	line_blob VARCHAR(71), 
	CONSTRAINT pk_artifacts PRIMARY KEY (id), 
	CONSTRAINT uq_artifacts_name UNIQUE (name), 
	CONSTRAINT ck_artifacts_sequence_natural CHECK (sequence >= 0), 
	CONSTRAINT fk_artifacts_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT fk_artifacts_line_blob_blobs FOREIGN KEY(line_blob) REFERENCES blobs (digest)
);
INSERT INTO "artifacts" VALUES(1,'lock','safety_lock',1,1,'2026-11-21 18:28:56.374807','blake3:8797db11f790cdf781c39642d265116ece96ddaf6741f1efe056809c9478a4a9');
INSERT INTO "artifacts" VALUES(2,'mask','esi_mask',1,0,'2026-11-21 18:28:56.403970',NULL);
CREATE TABLE "bases" (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	family VARCHAR(64) NOT NULL, 
	layers INTEGER NOT NULL, 
	heads INTEGER NOT NULL, 
	kv_heads INTEGER NOT NULL, 
	head_dim INTEGER NOT NULL, 
	hidden_size INTEGER NOT NULL, 
	config_digest VARCHAR(71) NOT NULL, 
	tokenizer VARCHAR(71), 
	chat_template VARCHAR(71), 
	record_blob VARCHAR(71) NOT NULL, 
	created_at DATETIME NOT NULL, 
	probe BLOB, 
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT ck_bases_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT uq_bases_weights UNIQUE (weights), 
	CONSTRAINT ck_bases_geometry_positive CHECK (layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0), 
	CONSTRAINT ck_bases_tokenizer_digest CHECK (length(tokenizer) = 71 AND substr(tokenizer, 1, 7) = 'blake3:' AND ltrim(substr(tokenizer, 8), '0123456789abcdef') = ''), 
	CONSTRAINT fk_bases_record_blob_blobs FOREIGN KEY(record_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_bases_chat_template_digest CHECK (length(chat_template) = 71 AND substr(chat_template, 1, 7) = 'blake3:' AND ltrim(substr(chat_template, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT uq_bases_name UNIQUE (name), 
	CONSTRAINT ck_bases_probe_size CHECK (length(probe) = 1024)
);
INSERT INTO "bases" VALUES(1,'blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d','base','llama',2,4,2,16,64,'blake3:fb481ae1bca52b5022f9d199732bef6f923eb13a85c83ea8cbec823274f41ad7','blake3:3b50f290e0da181db5eb6761a08f014c5a23374f55c916a6cbca8d611baace8a',NULL,'blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0','2026-11-21 18:28:56.331750',NULL);
INSERT INTO "bases" VALUES(2,'blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a','it''s a "bäse" ☃; --','llama',2,4,2,16,64,'blake3:b90ddb3d1cd26e387ed70567e561da38ab0a68c8f8b1fbaec4f09a6ba2a67a11','blake3:90de8a51eb9a4b38741c8da5326a96679bd1d9be028bff7beb85a34f6f011037',NULL,'blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311','2026-11-21 18:28:56.358238',X'049A5EBED280C63F2A3B51BF874B7EBF888330BF09BCB9BEEEEAE1BE6E69533F3F9C13BF3D99963E34107FBCE182E0BEFF16423FEBB9FB3E776D85BE21EF03BF74B8FDBE1955A03FEB35C8BEC660D03EED12CE3FE8A62A3F4A5C38BE385C18406F930C3F335A8D3F804E433F5AE7D83E30A7503D6CD82E3FE596BA3ED715C63FA727093EF109EEBBAC54474040100A3E6EF5593F4ED4AD3FD4EBC4BE59A4FE3DEFC7143FB62A7CBEACF28CBE8DB59A3FE99CA43FD1756ABF6BB0E83DA72C583FD1D16FBF6DED133EF3CE543F3E131A3FE145223FE77ACE3EC64D2C3F220A903FCE3A3B3F0C4BC03D1D898E3F19C239BE1E42943DAD6AA53FA0B7813EB654593E5677B4BEF100553F13E629BF9FA3ECBE536214BD21B581BEF0E3BB3F8F2359BF7606E9BEA9586A3F9E1BDDBEBD31BC3E16749A3F3282E63E364E0ABF9CCD99BDB94D94BFA9C4673D4A1CC93E0CD885BF95A4573F9A716B3FDF3C52BFCA483ABC7983B73F369406BE3CBB3B3FE821C53E40A95EBF5CB74D3D9A24DF3F225CB73EF267333F8120C53E7A8E0ABE18E5EE3F2B3564BF9D7002C00ADAADBEBAC3E2BFEC1944BF1177323FC892583F8E0D813FE2F897BF89596EBFAE86FEBE370E70BE08BEA83FF40A013E251CA3BE95BE8EBE030B95BF017F12BF4C7CC43F901A203F2B40C1BF818897BF6F17153F1259C73DDB7CBA3F5013293F3045D53EEA84293D81A404BF2B1597BED414FC3F78EA4F3F741F493F090FF83F0744313F6386BE3FCD819F3F95BC823FA9338DBDB034E53F4C05F03E3CA972BF7FE1C23F946E263E456D953F00F172BFAA032D3F13E2C53FC3899C3F9FEBC93EB3D71EBFDA01AE3E4E1DD23E158ADBBF95D2743F5C1B4CBE29EB3ABFD1DA30BE6EB3BB3ED3D36CBFC75849BDD294193FFE08DD3B853C23BF41F0973E1254D53F25DB643E662FCEBF866457BFB23039BFEF2B1CBFF13CD73E21DA02BFBAA411BFC64413BEDCCA283F41D5C9BEC78AD6BE39A2B43F845A9FBF9FB64D3F254E953FAA2EA33FB1B8A13E6EFA5DBF933A44BEC463573F5A3F62BEE059C63EE9E05D3F817B4FBF2ABC54BDAA2FB03ED3950F3F02F19F3E455B0ABF0088143EBB95B33FB2E8E43F34CC24BF251D0B40D0C95BBEAB74CCBEF8F2014061538A3FBFA4D3BED3A6C13EACB3BA3E92B19DBFE237863F90186DBF5978533F4E754CBEC657CFBF393F863E39B69CBF8A48FD3FF01C48BFE8C3A0BF7013A73FAFD5023E2F73143F876AA2BDCAC199BE85CFBFBE073120BEAD24B53F47C68C3E71A7253F41379DBF85BDB93FD5927C3F5275DEBE81453A3FE20726BF532C9B3FFB4873BF2B369DBF92E2193F6A0AD6BDA75797BF809D1ABF6DA4F7BC3CA4543F1FA9BE3F7B607D3D90D0C63E40D191BF894BE2BE33338FBF36E3153EED7EA1BFEC81D8BEC3899C3F82F6C1BFDBF3CF3F');
CREATE TABLE blobs (
	digest VARCHAR(71) NOT NULL, 
	size BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (digest), 
	CONSTRAINT ck_blobs_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_blobs_size_natural CHECK (size >= 0)
);
INSERT INTO "blobs" VALUES('blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0',14,'2026-11-21 18:28:56.330518');
INSERT INTO "blobs" VALUES('blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311',15,'2026-11-21 18:28:56.355937');
INSERT INTO "blobs" VALUES('blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9',875,'2026-11-21 18:28:56.377483');
INSERT INTO "blobs" VALUES('blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940',7,'2026-11-21 18:28:56.377805');
INSERT INTO "blobs" VALUES('blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6',840,'2026-11-21 18:28:56.388194');
INSERT INTO "blobs" VALUES('blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964',6,'2026-11-21 18:28:56.388462');
INSERT INTO "blobs" VALUES('blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97',838,'2026-11-21 18:28:56.397716');
INSERT INTO "blobs" VALUES('blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1',5,'2026-11-21 18:28:56.397970');
INSERT INTO "blobs" VALUES('blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224',844,'2026-11-21 18:28:56.404763');
INSERT INTO "blobs" VALUES('blake3:50cc6349837e8a3991d83d2da0a0cd80511e32e965983644bd26829c7e16c438',18,'2026-11-21 18:28:56.414288');
INSERT INTO "blobs" VALUES('blake3:8797db11f790cdf781c39642d265116ece96ddaf6741f1efe056809c9478a4a9',31,'2026-11-21 18:28:56.418755');
CREATE TABLE checkpoints (
	id INTEGER NOT NULL, 
	weights VARCHAR(71) NOT NULL, 
	base_id INTEGER, 
	relation TEXT NOT NULL, 
	evidence_level INTEGER NOT NULL, 
	distance DOUBLE, 
	config_digest VARCHAR(71), 
	locator TEXT, 
	first_seen DATETIME NOT NULL, 
	last_seen DATETIME NOT NULL, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT uq_checkpoints_weights UNIQUE (weights), 
	CONSTRAINT fk_checkpoints_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_checkpoints_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_checkpoints_evidence_level_known CHECK (evidence_level BETWEEN 0 AND 4), 
	CONSTRAINT ck_checkpoints_distance_natural CHECK (distance >= 0)
);
INSERT INTO "checkpoints" VALUES(1,'blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44',1,'derived',3,0.00125,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/tune \x00','2026-11-21 18:28:56.423106','2026-11-21 18:28:56.423106');
INSERT INTO "checkpoints" VALUES(2,'blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e',NULL,'unrelated',2,1.4,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/stranger \x00','2026-11-21 18:28:56.436473','2026-11-21 18:28:56.436473');
CREATE TABLE events (
	sequence INTEGER NOT NULL, 
	at VARCHAR(27) NOT NULL, 
	actor TEXT NOT NULL, 
	action VARCHAR(64) NOT NULL, 
	subject TEXT NOT NULL, 
	detail TEXT NOT NULL, 
	previous_digest VARCHAR(71) NOT NULL, 
	digest VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (sequence), 
	CONSTRAINT uq_events_digest UNIQUE (digest), 
	CONSTRAINT ck_events_previous_digest_digest CHECK (length(previous_digest) = 71 AND substr(previous_digest, 1, 7) = 'blake3:' AND ltrim(substr(previous_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_events_sequence_positive CHECK (sequence > 0)
);
INSERT INTO "events" VALUES(1,'2026-11-21T18:28:56.333285Z','publisher','base.register','base','{"record":"blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0","weights":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d"}','blake3:0000000000000000000000000000000000000000000000000000000000000000','blake3:32968399d443bdae098e1f521caa192ffc15eed506304b2eea5ede43e7c8f54f');
INSERT INTO "events" VALUES(2,'2026-11-21T18:28:56.336267Z','publisher','base.alias','base','{"aliases":["path:/models/base","hub:org/base@0000000000000000000000000000000000000000","sha256-set:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]}','blake3:32968399d443bdae098e1f521caa192ffc15eed506304b2eea5ede43e7c8f54f','blake3:87e7a79009c7394d504af97412515b33dc5b1edfcdde6b805ddcecaef316dfb8');
INSERT INTO "events" VALUES(3,'2026-11-21T18:28:56.359183Z','publisher','base.register','it''s a "bäse" ☃; --','{"record":"blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311","weights":"blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a"}','blake3:87e7a79009c7394d504af97412515b33dc5b1edfcdde6b805ddcecaef316dfb8','blake3:eb6eb1bd42baf6c2bae09241a999f7a81905dfdcf41dba1ba8805e508f51a8de');
INSERT INTO "events" VALUES(4,'2026-11-21T18:28:56.379184Z','publisher','version.publish','lock@1.0.0','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","kind":"safety_lock"}','blake3:eb6eb1bd42baf6c2bae09241a999f7a81905dfdcf41dba1ba8805e508f51a8de','blake3:c2716005fff067c1835a111a1978773baea40477dee64093a82033525135e2ad');
INSERT INTO "events" VALUES(5,'2026-11-21T18:28:56.381292Z','publisher','version.revoke','lock@1.0.0','{"digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","reason":"negated ''directions''\n"}','blake3:c2716005fff067c1835a111a1978773baea40477dee64093a82033525135e2ad','blake3:5b3b1e7bda902e77b3ec2b51bc8307f4df7594637341ce8fe04be9f71332c150');
INSERT INTO "events" VALUES(6,'2026-11-21T18:28:56.389183Z','publisher','version.publish','lock@1.1rc1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","kind":"safety_lock"}','blake3:5b3b1e7bda902e77b3ec2b51bc8307f4df7594637341ce8fe04be9f71332c150','blake3:86bda32731a29fca28973ee660285d3effd8d8ea330c78cff7093a26f2a98552');
INSERT INTO "events" VALUES(7,'2026-11-21T18:28:56.390915Z','publisher','version.yank','lock@1.1rc1','{"digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","reason":"too weak"}','blake3:86bda32731a29fca28973ee660285d3effd8d8ea330c78cff7093a26f2a98552','blake3:f0481b1b857d0805a5f1019d702492897ab9a21ecc1c753bb3c1d0723a7f6be9');
INSERT INTO "events" VALUES(8,'2026-11-21T18:28:56.398573Z','publisher','version.publish','lock@1.10','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","kind":"safety_lock"}','blake3:f0481b1b857d0805a5f1019d702492897ab9a21ecc1c753bb3c1d0723a7f6be9','blake3:6f5b9d2f362e405d2658da4798e4d753340526407b93e27011f874deeb0a4808');
INSERT INTO "events" VALUES(9,'2026-11-21T18:28:56.405577Z','publisher','version.publish','mask@2!1.0+local.1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224","kind":"esi_mask"}','blake3:6f5b9d2f362e405d2658da4798e4d753340526407b93e27011f874deeb0a4808','blake3:3aca050083325e10acc930658286a275520ad26fe4fa43530cece86bc05fd2b3');
INSERT INTO "events" VALUES(10,'2026-11-21T18:28:56.408387Z','publisher','key.trust','ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4','{"label":"publisher''s ''key''","namespaces":["base","org/*"],"not_after":"2031-01-01T12:00:00+00:00","not_before":"2030-01-01T12:00:00+00:00"}','blake3:3aca050083325e10acc930658286a275520ad26fe4fa43530cece86bc05fd2b3','blake3:db25ebcbeed527eb4f88151f5a5168b7723b87aad0cdf9201a0e7bb6e1407188');
INSERT INTO "events" VALUES(11,'2026-11-21T18:28:56.410500Z','publisher','key.revoke','ed25519:820faf224577f031bf6d908ade6d3e9d504e59622c6806de06fa7ca48af0ca20','{"forgotten":[],"kept":[],"reason":"stolen ☃"}','blake3:db25ebcbeed527eb4f88151f5a5168b7723b87aad0cdf9201a0e7bb6e1407188','blake3:5c344b7b10a3baf2d58a8dcfbab759c320ba1de29126af073446ad92ea139d06');
INSERT INTO "events" VALUES(12,'2026-11-21T18:28:56.415894Z','publisher','version.sign','lock@1.10','{"digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","key_id":"ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4","signature":"blake3:50cc6349837e8a3991d83d2da0a0cd80511e32e965983644bd26829c7e16c438"}','blake3:5c344b7b10a3baf2d58a8dcfbab759c320ba1de29126af073446ad92ea139d06','blake3:1168a11b7a68fe5b2c2757d5074a21c2fb809e75f3696329f243b6b14f553064');
INSERT INTO "events" VALUES(13,'2026-11-21T18:28:56.417738Z','publisher','line.accept','lock','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:31f55ba6a5ba0317bd8587f03fe209f1d2ffca7e862d95cbb4eb77aa88f8c4e6","key_ids":["ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4"],"name":"lock","sequence":1}','blake3:1168a11b7a68fe5b2c2757d5074a21c2fb809e75f3696329f243b6b14f553064','blake3:95fda2d1fcf36d143d8b66a8fae6e9c9574d6c4957fc556d57b842333fb858b2');
INSERT INTO "events" VALUES(14,'2026-11-21T18:28:56.422106Z','publisher','line.accept','elsewhere','{"base":"blake3:2bb428db1de5004a25689e6fa442bc080e7fbe62fcc8e33f71c63419eaaec54f","digest":"blake3:9d044e1794d511b9c83ec965ef0965f0e739d9d92c20bbd1c5a65b69a229cff8","key_ids":["ed25519:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a","ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4"],"name":"elsewhere","sequence":7}','blake3:95fda2d1fcf36d143d8b66a8fae6e9c9574d6c4957fc556d57b842333fb858b2','blake3:20397f8ce3faed4172edc443c20462139af71f856b43834017f2fc0730c00186');
INSERT INTO "events" VALUES(15,'2026-11-21T18:28:56.424898Z','publisher','checkpoint.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":0.00125,"evidence_level":3,"locator":"/models/tune \\x00","relation":"derived"}','blake3:20397f8ce3faed4172edc443c20462139af71f856b43834017f2fc0730c00186','blake3:5bfc1bda0fd0b11a537a3558397e2d2295ea9a4c2a297dd03dbcf66e934b8194');
INSERT INTO "events" VALUES(16,'2026-11-21T18:28:56.427917Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"derived"}','blake3:5bfc1bda0fd0b11a537a3558397e2d2295ea9a4c2a297dd03dbcf66e934b8194','blake3:d8c8e36f90a9c3fe8cf0bbc0413c4712249100fa24e344fe05cf5e3df4dc1c57');
INSERT INTO "events" VALUES(17,'2026-11-21T18:28:56.429665Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"derived"}','blake3:d8c8e36f90a9c3fe8cf0bbc0413c4712249100fa24e344fe05cf5e3df4dc1c57','blake3:0a18f72f2a862b9fe7101e8d7573d8010f8d0f56b77e8faab441cbebb108a464');
INSERT INTO "events" VALUES(18,'2026-11-21T18:28:56.431120Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"derived"}','blake3:0a18f72f2a862b9fe7101e8d7573d8010f8d0f56b77e8faab441cbebb108a464','blake3:eb1d32b821e544c47e8fd9f109e4a48450078e05df1db057e30e54e6ddcb448b');
INSERT INTO "events" VALUES(19,'2026-11-21T18:28:56.432467Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"derived"}','blake3:eb1d32b821e544c47e8fd9f109e4a48450078e05df1db057e30e54e6ddcb448b','blake3:5f6f06407068268348d143c1ed24ddb42dbda1e945cfae8deceede98ed7b3f97');
INSERT INTO "events" VALUES(20,'2026-11-21T18:28:56.434532Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:5f6f06407068268348d143c1ed24ddb42dbda1e945cfae8deceede98ed7b3f97','blake3:9aef9d7f55b82f09f42e9ca8636b7510cfaef6412fd9d52324094ecf1ca72b9a');
INSERT INTO "events" VALUES(21,'2026-11-21T18:28:56.435822Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:9aef9d7f55b82f09f42e9ca8636b7510cfaef6412fd9d52324094ecf1ca72b9a','blake3:6fcbfba70e7e38b24634fb25b8e50dff948401e023e9394e67ce37e4bea00c45');
INSERT INTO "events" VALUES(22,'2026-11-21T18:28:56.437129Z','publisher','checkpoint.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"base":null,"config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":1.4,"evidence_level":2,"locator":"/models/stranger \\x00","relation":"unrelated"}','blake3:6fcbfba70e7e38b24634fb25b8e50dff948401e023e9394e67ce37e4bea00c45','blake3:2a040ae1700932a75f2b65e49bbbbc85088afb9af2b62e6ea4585a86208e37b3');
INSERT INTO "events" VALUES(23,'2026-11-21T18:28:56.438495Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"unrelated"}','blake3:2a040ae1700932a75f2b65e49bbbbc85088afb9af2b62e6ea4585a86208e37b3','blake3:a35bf0174a78361ecdf3f838147c230c138f6af949f0ec66c98cf51e4b70eaee');
INSERT INTO "events" VALUES(24,'2026-11-21T18:28:56.439806Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"unrelated"}','blake3:a35bf0174a78361ecdf3f838147c230c138f6af949f0ec66c98cf51e4b70eaee','blake3:85f74b179f20c55ed52e4af90ae04468f89b58304107cb22c5f13ce7765ab7a3');
INSERT INTO "events" VALUES(25,'2026-11-21T18:28:56.441044Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"unrelated"}','blake3:85f74b179f20c55ed52e4af90ae04468f89b58304107cb22c5f13ce7765ab7a3','blake3:618cb6d4df51015ac0c850686ad5b6e12915d24a0a5db6ba82ec3f86ad5d61b6');
INSERT INTO "events" VALUES(26,'2026-11-21T18:28:56.442340Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"unrelated"}','blake3:618cb6d4df51015ac0c850686ad5b6e12915d24a0a5db6ba82ec3f86ad5d61b6','blake3:d0d75379c94beac58ef347f314053bc418976a24569cf15d4ba5448e88ae34ac');
INSERT INTO "events" VALUES(27,'2026-11-21T18:28:56.443719Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:d0d75379c94beac58ef347f314053bc418976a24569cf15d4ba5448e88ae34ac','blake3:a068afcd3a1b293663306c883d872e4a82e63884f1bb50f463c73648009b539b');
INSERT INTO "events" VALUES(28,'2026-11-21T18:28:56.445058Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:a068afcd3a1b293663306c883d872e4a82e63884f1bb50f463c73648009b539b','blake3:64bdf3a30dacd70a9cf6263d63c53a24bf1327ffcbf62b216c66905c81ac9671');
INSERT INTO "events" VALUES(29,'2026-11-21T18:28:56.446086Z','publisher','load.unprotected','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"reason":"a test"}','blake3:64bdf3a30dacd70a9cf6263d63c53a24bf1327ffcbf62b216c66905c81ac9671','blake3:536a006225f0aad7fcf07a6c548ea8aba3a45274c37d6a1ad0da3471fb6b4648');
CREATE TABLE keys (
	key_id VARCHAR(72) NOT NULL, 
	label TEXT, 
	namespaces TEXT NOT NULL, 
	not_before DATETIME, 
	not_after DATETIME, 
	trusted_at DATETIME, 
	revoked_at DATETIME, 
	revoked_reason TEXT, 
	CONSTRAINT pk_keys PRIMARY KEY (key_id), 
	CONSTRAINT ck_keys_key_id_key CHECK (length(key_id) = 72 AND substr(key_id, 1, 8) = 'ed25519:' AND ltrim(substr(key_id, 9), '0123456789abcdef') = ''), 
	CONSTRAINT ck_keys_trusted_or_revoked CHECK (trusted_at IS NOT NULL OR revoked_at IS NOT NULL), 
	CONSTRAINT ck_keys_revoked_why CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
);
INSERT INTO "keys" VALUES('ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4','publisher''s ''key''','["base","org/*"]','2030-01-01 12:00:00.000000','2031-01-01 12:00:00.000000','2026-11-21 18:28:56.407567',NULL,NULL);
INSERT INTO "keys" VALUES('ed25519:820faf224577f031bf6d908ade6d3e9d504e59622c6806de06fa7ca48af0ca20',NULL,'[]',NULL,NULL,NULL,'2026-11-21 18:28:56.409454','stolen ☃');
CREATE TABLE line_heads (
	name VARCHAR(96) NOT NULL, 
	base VARCHAR(71) NOT NULL, 
	sequence BIGINT NOT NULL, 
	digest VARCHAR(71) NOT NULL, 
	key_ids TEXT NOT NULL, 
	document BLOB NOT NULL, 
	seen_at DATETIME NOT NULL, 
	CONSTRAINT pk_line_heads PRIMARY KEY (name, base), 
	CONSTRAINT ck_line_heads_base_digest CHECK (length(base) = 71 AND substr(base, 1, 7) = 'blake3:' AND ltrim(substr(base, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_line_heads_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_line_heads_key_ids_keys CHECK (substr(key_ids, 1, 10) = '["ed25519:'), 
	CONSTRAINT ck_line_heads_sequence_positive CHECK (sequence > 0)
);
INSERT INTO "line_heads" VALUES('lock','blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d',1,'blake3:31f55ba6a5ba0317bd8587f03fe209f1d2ffca7e862d95cbb4eb77aa88f8c4e6','["ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4"]',X'6C696E65206C6F636B20626173652031','2026-11-21 18:28:56.416798');
INSERT INTO "line_heads" VALUES('elsewhere','blake3:2bb428db1de5004a25689e6fa442bc080e7fbe62fcc8e33f71c63419eaaec54f',7,'blake3:9d044e1794d511b9c83ec965ef0965f0e739d9d92c20bbd1c5a65b69a229cff8','["ed25519:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a","ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4"]',X'6C696E6520656C7365776865726520756E6B6E6F776E2037','2026-11-21 18:28:56.421723');
CREATE TABLE registry (
	one INTEGER NOT NULL, 
	id VARCHAR(32) NOT NULL, 
	CONSTRAINT pk_registry PRIMARY KEY (one), 
	CONSTRAINT ck_registry_one_row CHECK (one = 1), 
	CONSTRAINT ck_registry_id_hex CHECK (length(id) = 32 AND ltrim(id, '0123456789abcdef') = '')
);
INSERT INTO "registry" VALUES(1,'7e662b3f1d3badd9827c9c96bbd764a1');
CREATE TABLE reports (
	id INTEGER NOT NULL, 
	checkpoint_id INTEGER NOT NULL, 
	version_id INTEGER, 
	kind VARCHAR(16) NOT NULL, 
	verdict TEXT NOT NULL, 
	body TEXT NOT NULL, 
	tool_version VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_reports PRIMARY KEY (id), 
	CONSTRAINT fk_reports_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_reports_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT ck_reports_kind_known CHECK (kind IN ('lineage', 'check', 'inspect', 'audit'))
);
INSERT INTO "reports" VALUES(1,1,3,'lineage','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.427027');
INSERT INTO "reports" VALUES(2,1,3,'check','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.429243');
INSERT INTO "reports" VALUES(3,1,3,'inspect','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.430784');
INSERT INTO "reports" VALUES(4,1,3,'audit','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.432137');
INSERT INTO "reports" VALUES(5,2,3,'lineage','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.438171');
INSERT INTO "reports" VALUES(6,2,3,'check','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.439503');
INSERT INTO "reports" VALUES(7,2,3,'inspect','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.440746');
INSERT INTO "reports" VALUES(8,2,3,'audit','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 18:28:56.442040');
CREATE TABLE version_files (
	version_id INTEGER NOT NULL, 
	path VARCHAR(128) NOT NULL, 
	blob VARCHAR(71) NOT NULL, 
	CONSTRAINT pk_version_files PRIMARY KEY (version_id, path), 
	CONSTRAINT fk_version_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id), 
	CONSTRAINT fk_version_files_blob_blobs FOREIGN KEY(blob) REFERENCES blobs (digest)
);
INSERT INTO "version_files" VALUES(1,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(1,'manifest.json','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9');
INSERT INTO "version_files" VALUES(1,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
INSERT INTO "version_files" VALUES(2,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(2,'manifest.json','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6');
INSERT INTO "version_files" VALUES(2,'tensors.safetensors','blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964');
INSERT INTO "version_files" VALUES(3,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(3,'manifest.json','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97');
INSERT INTO "version_files" VALUES(3,'tensors.safetensors','blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1');
INSERT INTO "version_files" VALUES(4,'base.safetensors','blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0');
INSERT INTO "version_files" VALUES(4,'manifest.json','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224');
INSERT INTO "version_files" VALUES(4,'tensors.safetensors','blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940');
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	artifact_id INTEGER NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	version_order VARCHAR(512) NOT NULL, 
	manifest_digest VARCHAR(71) NOT NULL, 
	state VARCHAR(16) DEFAULT 'active' NOT NULL, 
	state_reason TEXT, 
	signature_blob VARCHAR(71), 
	key_id VARCHAR(128), 
	not_before DATETIME, 
	expires_at DATETIME, 
	published_at DATETIME NOT NULL, 
	CONSTRAINT pk_versions PRIMARY KEY (id), 
	CONSTRAINT uq_versions_manifest_digest UNIQUE (manifest_digest), 
	CONSTRAINT uq_versions_artifact_id_version UNIQUE (artifact_id, version), 
	CONSTRAINT uq_versions_artifact_id_version_order UNIQUE (artifact_id, version_order), 
	CONSTRAINT fk_versions_artifact_id_artifacts FOREIGN KEY(artifact_id) REFERENCES artifacts (id), 
	CONSTRAINT fk_versions_signature_blob_blobs FOREIGN KEY(signature_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_versions_manifest_digest_digest CHECK (length(manifest_digest) = 71 AND substr(manifest_digest, 1, 7) = 'blake3:' AND ltrim(substr(manifest_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_versions_state_known CHECK (state IN ('active', 'yanked', 'revoked'))
);
INSERT INTO "versions" VALUES(1,1,'1.0.0','010101102010','blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9','revoked','negated ''directions''
',NULL,NULL,'2030-01-01 00:00:00.000000','2031-01-01 00:00:00.000000','2026-11-21 18:28:56.374807');
INSERT INTO "versions" VALUES(2,1,'1.1rc1','0101011101101r011010','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6','yanked','too weak',NULL,NULL,NULL,NULL,'2026-11-21 18:28:56.387479');
INSERT INTO "versions" VALUES(3,1,'1.10','01010111021002010','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','active',NULL,'blake3:50cc6349837e8a3991d83d2da0a0cd80511e32e965983644bd26829c7e16c438','ed25519:ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4',NULL,NULL,'2026-11-21 18:28:56.396948');
INSERT INTO "versions" VALUES(4,2,'2!1.0+local.1','0121011020111local.20110','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 18:28:56.403970');
CREATE INDEX ix_aliases_base_id ON aliases (base_id);
CREATE INDEX ix_aliases_value ON aliases (value);
CREATE INDEX ix_version_files_blob ON version_files (blob);
CREATE INDEX ix_checkpoints_base_id ON checkpoints (base_id);
CREATE INDEX ix_reports_checkpoint_id_kind ON reports (checkpoint_id, kind);
CREATE INDEX ix_reports_version_id ON reports (version_id);
CREATE INDEX ix_applications_checkpoint_id ON applications (checkpoint_id);
CREATE INDEX ix_applications_version_id ON applications (version_id);
CREATE INDEX ix_applications_manifest_digest ON applications (manifest_digest);
CREATE TRIGGER events_refuse_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
CREATE TRIGGER events_refuse_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
CREATE INDEX ix_bases_geometry ON bases (family, layers, heads, kv_heads, head_dim, hidden_size);
CREATE INDEX ix_artifacts_base_id ON artifacts (base_id);
CREATE TRIGGER events_refuse_replace BEFORE INSERT ON events WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM events) OR EXISTS (SELECT 1 FROM events WHERE digest = NEW.digest) BEGIN SELECT RAISE(ABORT, 'events are only appended: none is changed or removed'); END;
COMMIT;
