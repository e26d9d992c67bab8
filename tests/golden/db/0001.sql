BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
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
INSERT INTO "aliases" VALUES(1,1,'path','/models/base','2026-11-21 11:55:37.311081');
INSERT INTO "aliases" VALUES(2,1,'hub','org/base@0000000000000000000000000000000000000000','2026-11-21 11:55:37.312708');
INSERT INTO "aliases" VALUES(3,1,'sha256-set','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','2026-11-21 11:55:37.312951');
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
CREATE TABLE artifacts (
	id INTEGER NOT NULL, 
	name VARCHAR(96) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	base_id INTEGER NOT NULL, 
	sequence BIGINT DEFAULT '0' NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_artifacts PRIMARY KEY (id), 
	CONSTRAINT uq_artifacts_name UNIQUE (name), 
	CONSTRAINT fk_artifacts_base_id_bases FOREIGN KEY(base_id) REFERENCES bases (id), 
	CONSTRAINT ck_artifacts_sequence_natural CHECK (sequence >= 0)
);
INSERT INTO "artifacts" VALUES(1,'lock','safety_lock',1,0,'2026-11-21 11:55:37.350700');
INSERT INTO "artifacts" VALUES(2,'mask','esi_mask',1,0,'2026-11-21 11:55:37.405998');
CREATE TABLE bases (
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
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT uq_bases_weights UNIQUE (weights), 
	CONSTRAINT uq_bases_name UNIQUE (name), 
	CONSTRAINT fk_bases_record_blob_blobs FOREIGN KEY(record_blob) REFERENCES blobs (digest), 
	CONSTRAINT ck_bases_weights_digest CHECK (length(weights) = 71 AND substr(weights, 1, 7) = 'blake3:' AND ltrim(substr(weights, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_config_digest_digest CHECK (length(config_digest) = 71 AND substr(config_digest, 1, 7) = 'blake3:' AND ltrim(substr(config_digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_tokenizer_digest CHECK (length(tokenizer) = 71 AND substr(tokenizer, 1, 7) = 'blake3:' AND ltrim(substr(tokenizer, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_chat_template_digest CHECK (length(chat_template) = 71 AND substr(chat_template, 1, 7) = 'blake3:' AND ltrim(substr(chat_template, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_bases_geometry_positive CHECK (layers > 0 AND heads > 0 AND kv_heads > 0 AND head_dim > 0 AND hidden_size > 0)
);
INSERT INTO "bases" VALUES(1,'blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d','base','llama',2,4,2,16,64,'blake3:fb481ae1bca52b5022f9d199732bef6f923eb13a85c83ea8cbec823274f41ad7','blake3:3b50f290e0da181db5eb6761a08f014c5a23374f55c916a6cbca8d611baace8a',NULL,'blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0','2026-11-21 11:55:37.305194');
INSERT INTO "bases" VALUES(2,'blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a','it''s a "bäse" ☃; --','llama',2,4,2,16,64,'blake3:b90ddb3d1cd26e387ed70567e561da38ab0a68c8f8b1fbaec4f09a6ba2a67a11','blake3:90de8a51eb9a4b38741c8da5326a96679bd1d9be028bff7beb85a34f6f011037',NULL,'blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311','2026-11-21 11:55:37.333635');
CREATE TABLE blobs (
	digest VARCHAR(71) NOT NULL, 
	size BIGINT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (digest), 
	CONSTRAINT ck_blobs_digest_digest CHECK (length(digest) = 71 AND substr(digest, 1, 7) = 'blake3:' AND ltrim(substr(digest, 8), '0123456789abcdef') = ''), 
	CONSTRAINT ck_blobs_size_natural CHECK (size >= 0)
);
INSERT INTO "blobs" VALUES('blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0',14,'2026-11-21 11:55:37.304060');
INSERT INTO "blobs" VALUES('blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311',15,'2026-11-21 11:55:37.332957');
INSERT INTO "blobs" VALUES('blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9',875,'2026-11-21 11:55:37.352714');
INSERT INTO "blobs" VALUES('blake3:7798139bc16820ae05b9dcd9fab2088ca1d08dc8e044278597f8323df7af3940',7,'2026-11-21 11:55:37.353001');
INSERT INTO "blobs" VALUES('blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6',840,'2026-11-21 11:55:37.372017');
INSERT INTO "blobs" VALUES('blake3:cd85637651ec7a557bddd61c5ddd1df21ad8bbbaf6c3c098482b3ed1c1014964',6,'2026-11-21 11:55:37.372270');
INSERT INTO "blobs" VALUES('blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97',838,'2026-11-21 11:55:37.391262');
INSERT INTO "blobs" VALUES('blake3:42f1d0a285aebbec81c29b9e334aaa322f6f24ac7d5f14c3b89aa50a9bc7b2d1',5,'2026-11-21 11:55:37.391499');
INSERT INTO "blobs" VALUES('blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224',844,'2026-11-21 11:55:37.406877');
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
INSERT INTO "checkpoints" VALUES(1,'blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44',1,'derived',3,0.00125,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/tune \x00','2026-11-21 11:55:37.408382','2026-11-21 11:55:37.408382');
INSERT INTO "checkpoints" VALUES(2,'blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e',NULL,'unrelated',2,1.4,'blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7','/models/stranger \x00','2026-11-21 11:55:37.432283','2026-11-21 11:55:37.432283');
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
INSERT INTO "events" VALUES(1,'2026-11-21T11:55:37.309573Z','publisher','base.register','base','{"record":"blake3:939a521519b19dd9b6da78e706a1a5598483a8e19167420eabefc60ea6cd04b0","weights":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d"}','blake3:0000000000000000000000000000000000000000000000000000000000000000','blake3:e08d19285d5de8d212e6f59ffde10e79c8a17a0182d02c6fde60de2202d8c57e');
INSERT INTO "events" VALUES(2,'2026-11-21T11:55:37.313195Z','publisher','base.alias','base','{"aliases":["path:/models/base","hub:org/base@0000000000000000000000000000000000000000","sha256-set:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]}','blake3:e08d19285d5de8d212e6f59ffde10e79c8a17a0182d02c6fde60de2202d8c57e','blake3:f78f496fd9396d323956b20a29b8b4aa38f553d67f62cc25928aba310726e2c9');
INSERT INTO "events" VALUES(3,'2026-11-21T11:55:37.334343Z','publisher','base.register','it''s a "bäse" ☃; --','{"record":"blake3:a52a87522dd111430ba758d16f1a08a9b225f5ebe9a2e5c659fc1437c0a8d311","weights":"blake3:3f796163ebf94718de1cd7582655c012f995c06f1e6970ea2bdc15bcd88a324a"}','blake3:f78f496fd9396d323956b20a29b8b4aa38f553d67f62cc25928aba310726e2c9','blake3:c5510ce33d0246235d54d429385fa8b2e1c3ef1a4131430fe5b3c67f22e379b6');
INSERT INTO "events" VALUES(4,'2026-11-21T11:55:37.354503Z','publisher','version.publish','lock@1.0.0','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","kind":"safety_lock"}','blake3:c5510ce33d0246235d54d429385fa8b2e1c3ef1a4131430fe5b3c67f22e379b6','blake3:997e9e517f9e5680f5011366c1b1380b10dabb96ed6ec6fcd9ca3bc1744eb088');
INSERT INTO "events" VALUES(5,'2026-11-21T11:55:37.356279Z','publisher','version.revoke','lock@1.0.0','{"digest":"blake3:ae91ab22b12ebacfb4c41bc9e8559003bb34ed5c25c1c690af62202a7c4785c9","reason":"negated ''directions''\n"}','blake3:997e9e517f9e5680f5011366c1b1380b10dabb96ed6ec6fcd9ca3bc1744eb088','blake3:bb02bf3146a6aecba5c8510455e62af2d375c87c21a540eb021b1a47111af901');
INSERT INTO "events" VALUES(6,'2026-11-21T11:55:37.372869Z','publisher','version.publish','lock@1.1rc1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","kind":"safety_lock"}','blake3:bb02bf3146a6aecba5c8510455e62af2d375c87c21a540eb021b1a47111af901','blake3:dae6569f974a817ec5ac25e96d99b7f770c600544687363f49525c69b074d7bf');
INSERT INTO "events" VALUES(7,'2026-11-21T11:55:37.375833Z','publisher','version.yank','lock@1.1rc1','{"digest":"blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6","reason":"too weak"}','blake3:dae6569f974a817ec5ac25e96d99b7f770c600544687363f49525c69b074d7bf','blake3:be7c488e3b18b1eb5baac0a90dd06e1d931bb48698f5232787e1194760a6e6db');
INSERT INTO "events" VALUES(8,'2026-11-21T11:55:37.392095Z','publisher','version.publish','lock@1.10','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","kind":"safety_lock"}','blake3:be7c488e3b18b1eb5baac0a90dd06e1d931bb48698f5232787e1194760a6e6db','blake3:df37933b6a3334b0499dac743ae00429729a8a08cb28024cf751ed7357bfe79c');
INSERT INTO "events" VALUES(9,'2026-11-21T11:55:37.407649Z','publisher','version.publish','mask@2!1.0+local.1','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","digest":"blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224","kind":"esi_mask"}','blake3:df37933b6a3334b0499dac743ae00429729a8a08cb28024cf751ed7357bfe79c','blake3:9c8f5935c1dc3472637c72583271fad95a4b8eb717f95e78b4f696b6380fe3bb');
INSERT INTO "events" VALUES(10,'2026-11-21T11:55:37.410112Z','publisher','checkpoint.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"base":"blake3:de8f3fcf327eb911b2c368e011e0ffdee22fed456b4f4508337018ba46a0639d","config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":0.00125,"evidence_level":3,"locator":"/models/tune \\x00","relation":"derived"}','blake3:9c8f5935c1dc3472637c72583271fad95a4b8eb717f95e78b4f696b6380fe3bb','blake3:1456bd438170c6eb56f4a90cfa81e83fbb02f4e91cda46f6d06e2b402dd7a465');
INSERT INTO "events" VALUES(11,'2026-11-21T11:55:37.413960Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"derived"}','blake3:1456bd438170c6eb56f4a90cfa81e83fbb02f4e91cda46f6d06e2b402dd7a465','blake3:935169a9567366263f37dcdafa28e78ebc8073c0262dd806071f3acfe9a57eb6');
INSERT INTO "events" VALUES(12,'2026-11-21T11:55:37.415292Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"derived"}','blake3:935169a9567366263f37dcdafa28e78ebc8073c0262dd806071f3acfe9a57eb6','blake3:cb79cf168ba24350f2fe811fb3442e925bc4e9ea4d792c4e7675c054bedbfd6c');
INSERT INTO "events" VALUES(13,'2026-11-21T11:55:37.417952Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"derived"}','blake3:cb79cf168ba24350f2fe811fb3442e925bc4e9ea4d792c4e7675c054bedbfd6c','blake3:ac9bf74c7f23e0857a4482c3b54ef85b7724b15158aa447c99427a7008fbcb53');
INSERT INTO "events" VALUES(14,'2026-11-21T11:55:37.422036Z','publisher','report.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"derived"}','blake3:ac9bf74c7f23e0857a4482c3b54ef85b7724b15158aa447c99427a7008fbcb53','blake3:892da25edbf38b2c158002365250245120f9f591b710b145e5ab96a4db1b1278');
INSERT INTO "events" VALUES(15,'2026-11-21T11:55:37.424275Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:892da25edbf38b2c158002365250245120f9f591b710b145e5ab96a4db1b1278','blake3:d162e4ae7054a72f7099ab8679ff422c8aaf6ac8b846cd03fb966958a1a245c9');
INSERT INTO "events" VALUES(16,'2026-11-21T11:55:37.427162Z','publisher','application.record','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:d162e4ae7054a72f7099ab8679ff422c8aaf6ac8b846cd03fb966958a1a245c9','blake3:26e7588519886bf7f263190977fc24971e373c98dea6f4a94984eb496a31819f');
INSERT INTO "events" VALUES(17,'2026-11-21T11:55:37.432918Z','publisher','checkpoint.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"base":null,"config_digest":"blake3:b756e64ea90c4036e88f3f07ff9a708666dc0527bf14a015249e84ff6daabaa7","distance":1.4,"evidence_level":2,"locator":"/models/stranger \\x00","relation":"unrelated"}','blake3:26e7588519886bf7f263190977fc24971e373c98dea6f4a94984eb496a31819f','blake3:2d612db6700da9ab40db1c7d45261a38a49dd327d74919da3d9f96cfcf690020');
INSERT INTO "events" VALUES(18,'2026-11-21T11:55:37.434256Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"lineage","verdict":"unrelated"}','blake3:2d612db6700da9ab40db1c7d45261a38a49dd327d74919da3d9f96cfcf690020','blake3:f09cd47e550a2aeb0aa14962c1edca5b8e894d115551e8cc93feb94af6112afa');
INSERT INTO "events" VALUES(19,'2026-11-21T11:55:37.436383Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"check","verdict":"unrelated"}','blake3:f09cd47e550a2aeb0aa14962c1edca5b8e894d115551e8cc93feb94af6112afa','blake3:d4681c77794393beebcc9a548757265f844ab29e0e5b86e1e7cd9dd5d90126b0');
INSERT INTO "events" VALUES(20,'2026-11-21T11:55:37.437623Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"inspect","verdict":"unrelated"}','blake3:d4681c77794393beebcc9a548757265f844ab29e0e5b86e1e7cd9dd5d90126b0','blake3:129e1c3eabde249ce95e0189312e9f7422edcdd03e1b61a909c51e076d45df83');
INSERT INTO "events" VALUES(21,'2026-11-21T11:55:37.439589Z','publisher','report.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"artifact":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","body":"blake3:736dc034038fe44737c11662f550bdf211e07254e618264929d77b4334b9288e","kind":"audit","verdict":"unrelated"}','blake3:129e1c3eabde249ce95e0189312e9f7422edcdd03e1b61a909c51e076d45df83','blake3:0cddc6fd9210380ef74c0cf93b290fd7890d71feab9d8bc995de7fab35a0176b');
INSERT INTO "events" VALUES(22,'2026-11-21T11:55:37.441630Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":2.5,"applied_at":"2030-01-01T12:00:00+00:00","device":"cuda:0","evidence":"blake3:26bd63e00aa7b0b46616c0621655c3bc44aadc8f3f4be3523339bfa4d37f178e","kind":"safety_lock","manifest_digest":"blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97","policy":"enforce","verified_at":"2030-01-01T12:00:01+00:00"}','blake3:0cddc6fd9210380ef74c0cf93b290fd7890d71feab9d8bc995de7fab35a0176b','blake3:120ed34e018bf17eb04cb7f498ec94eb19c3fb7f970fa58d2611d15db26ef274');
INSERT INTO "events" VALUES(23,'2026-11-21T11:55:37.443751Z','publisher','application.record','blake3:a3c6fd0425f2fddd5f228bc4fde34524b16289a811133731b03b267f3d0f5b0e','{"alpha":null,"applied_at":"2030-01-01T12:00:00+00:00","device":"cpu","evidence":"blake3:6e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279","kind":"safety_lock","manifest_digest":"blake3:76ea1cfe2346880aa77a3909ef798014533fa81db07a990ab98f2fba83f47a8f","policy":"warn","verified_at":null}','blake3:120ed34e018bf17eb04cb7f498ec94eb19c3fb7f970fa58d2611d15db26ef274','blake3:82e9bcc53f3905db91a320cb2948412bf690f16c8b9c1e3831f70ded377a58a2');
INSERT INTO "events" VALUES(24,'2026-11-21T11:55:37.446780Z','publisher','load.unprotected','blake3:a4e45ea759464968be0d1e4c16b390c6e97affec3acb5b4cd4588154dfaa0c44','{"reason":"a test"}','blake3:82e9bcc53f3905db91a320cb2948412bf690f16c8b9c1e3831f70ded377a58a2','blake3:ec158977c068c60296e503f1ba54eff2ec1eccf0f15f78d7272fe8ed433be7ca');
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
INSERT INTO "reports" VALUES(1,1,3,'lineage','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.413150');
INSERT INTO "reports" VALUES(2,1,3,'check','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.414968');
INSERT INTO "reports" VALUES(3,1,3,'inspect','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.417634');
INSERT INTO "reports" VALUES(4,1,3,'audit','derived','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.421710');
INSERT INTO "reports" VALUES(5,2,3,'lineage','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.433939');
INSERT INTO "reports" VALUES(6,2,3,'check','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.436067');
INSERT INTO "reports" VALUES(7,2,3,'inspect','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.437255');
INSERT INTO "reports" VALUES(8,2,3,'audit','unrelated','{"findings":[{"text":"a ''quote'' and ☃"}],"none":null,"ratio":0.1}','0.1.0','2026-11-21 11:55:37.439276');
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
',NULL,NULL,'2030-01-01 00:00:00.000000','2031-01-01 00:00:00.000000','2026-11-21 11:55:37.350700');
INSERT INTO "versions" VALUES(2,1,'1.1rc1','0101011101101r011010','blake3:0bc52c81c2926a51fae62c3baf26711b345d27f328ccb5e1708a46a3fda041b6','yanked','too weak',NULL,NULL,NULL,NULL,'2026-11-21 11:55:37.371302');
INSERT INTO "versions" VALUES(3,1,'1.10','01010111021002010','blake3:bff3a65c6e1d520c1de5ae6b88d93bc701e5866e21d72506fb02d9113bc1cb97','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 11:55:37.390561');
INSERT INTO "versions" VALUES(4,2,'2!1.0+local.1','0121011020111local.20110','blake3:88e1d1a733fff403c06a8fc8b168c936925027c60245dfae79c19e31c33cb224','active',NULL,NULL,NULL,NULL,NULL,'2026-11-21 11:55:37.405998');
CREATE INDEX ix_bases_geometry ON bases (family, layers, heads, kv_heads, head_dim, hidden_size);
CREATE INDEX ix_aliases_base_id ON aliases (base_id);
CREATE INDEX ix_aliases_value ON aliases (value);
CREATE INDEX ix_artifacts_base_id ON artifacts (base_id);
CREATE INDEX ix_version_files_blob ON version_files (blob);
CREATE INDEX ix_checkpoints_base_id ON checkpoints (base_id);
CREATE INDEX ix_reports_checkpoint_id_kind ON reports (checkpoint_id, kind);
CREATE INDEX ix_reports_version_id ON reports (version_id);
CREATE INDEX ix_applications_checkpoint_id ON applications (checkpoint_id);
CREATE INDEX ix_applications_version_id ON applications (version_id);
CREATE INDEX ix_applications_manifest_digest ON applications (manifest_digest);
COMMIT;
